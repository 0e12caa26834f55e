"""First values of a small Llama's attention with which it copies before it has learnt anything.

Answers from evidence are copies: find where the question's words stood, say what came after them. From
random weights this circuit, a head that looks one token back and later heads that look for the present
token among what those have seen (induction heads; Olsson et al., arXiv 2209.11895), takes far more examples
to appear than the rest of the task. So it is put there, in the spirit of mimetic initialisation (Trockman
and Kolter, arXiv 2305.09828), and training changes it as it likes. Every weight still learns.

The width is divided: what a token is, then what the one and the two tokens before it were.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

_SHARE = 32
"""Dimensions that one token looked back at is told in, and that matches are made in."""
_SPREAD = 0.5  # standard deviation of an embedding's entries
_LOGITS = 0.04  # of the head's
_SHARPNESS = 6.0  # of looking back
_MATCH = 1.6  # of looking for the present token


@torch.no_grad()
def begin_copying(model: LlavaForConditionalGeneration) -> None:
    """Set embeddings, head, and in every layer's attention the first two heads. Draws from torch's generator.

    The model must have `attention_bias`, and heads of at least 2 * _SHARE dimensions.
    """
    llama, config = model.model.language_model, model.config.text_config
    width, side = config.hidden_size, config.head_dim or config.hidden_size // config.num_attention_heads
    content = width - 2 * _SHARE
    embedded, head = llama.embed_tokens.weight, model.lm_head.weight
    embedded.normal_(std=_SPREAD)
    embedded[:, content:] = 0
    # A rotation lies between what is read and what is said: a token alone does not predict itself.
    spoken = _orthonormal(content, content)
    head.normal_(std=0.002)
    head[:, :content] += embedded[:, :content] @ spoken.T * (_LOGITS / _SPREAD)
    watched = _orthonormal(_SHARE, content)
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(side // 2) / (side // 2))
    slow = torch.cat([torch.arange(side // 4, side // 2), torch.arange(3 * side // 4, side)])[:_SHARE]
    one_back, two_back = (slice(content + place * _SHARE, content + (place + 1) * _SHARE) for place in (0, 1))
    kept = torch.eye(_SHARE)
    for number, layer in enumerate(llama.layers):
        attention = layer.self_attn
        attention.o_proj.bias.zero_()
        for place, (back, told) in enumerate(((1, one_back), (2, two_back))):
            rows = slice(place * side, (place + 1) * side)
            query, key, value = (
                part.weight[rows] for part in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            said = attention.o_proj.weight[:, rows]
            query *= 0.25
            key *= 0.25
            value.zero_()
            said.zero_()
            if number == 0:  # look back, and tell what was there
                angles = frequencies * back
                attention.q_proj.bias[rows] = _SHARPNESS * torch.cat([angles**0, 0 * angles])
                attention.k_proj.bias[rows] = _SHARPNESS * torch.cat([angles.cos(), angles.sin()])
                value[:_SHARE, :content] = watched
                said[told, :_SHARE] = _SPREAD * kept
                continue
            # Look for what came after the present token, or after the one before it by one more; say it.
            # Matched where positions turn slowly, so that distance matters little.
            query[slow, one_back if place else slice(content)] += _MATCH * (kept if place else watched)
            key[slow, told] += _MATCH * kept
            read = _orthonormal(side, content)
            value[:, :content] = read
            said[:content] = _SPREAD * spoken @ read.T


def _orthonormal(rows: int, columns: int) -> Tensor:
    """Random rows of length 1 at right angles."""
    found: Tensor = torch.linalg.qr(torch.randn(columns, rows)).Q.T
    return found
