"""What an aligner adds to its memory by a trained network: an MLP, or a Q-Former as in BLIP-2. Imports torch.

Both read the same: the question in both spaces, the pictures that memory gives for it, and a candidate, a
token for each scale. The Q-Former (Li et al., arXiv 2301.12597) has learnt queries that attend to the
question's tokens beside them and, by cross-attention, to the candidate's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from pipelines.core.aligner import AlignerDescription

Array = NDArray[np.float32]
PREFIX = "residual."


class MlpResidual(nn.Module):
    """Of the products of a candidate with the question and with its memory, and of the question alone."""

    def __init__(self, shape: AlignerDescription, dropout: float) -> None:
        super().__init__()
        width, hidden = shape.scales * shape.dim, shape.hidden
        self.text, self.memory, self.candidate = (
            nn.Linear(size, hidden) for size in (shape.text_dim, width, width)
        )
        self.out = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(3 * hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )
        self.dropout = nn.Dropout(dropout)
        self.widths = math.sqrt(shape.text_dim), math.sqrt(width)
        nn.init.zeros_(cast(nn.Linear, self.out[4]).weight)

    def forward(self, visual: Tensor, text: Tensor, memory: Tensor, candidates: Tensor) -> Tensor:
        """(B, W), (B, T), (B, W), (B, C, W) -> (B, C)."""
        of_text, of_width = self.widths
        asked = self.text(self.dropout(text) * of_text)[:, None].expand(-1, candidates.shape[1], -1)
        remembered = self.memory(self.dropout(memory) * of_width)[:, None]
        seen = self.candidate(self.dropout(candidates) * of_width)
        scores: Tensor = self.out(torch.cat([asked * seen, remembered * seen, asked], dim=-1)).squeeze(-1)
        return scores


class QFormerResidual(nn.Module):
    """Image–text matching: the mean over the learnt queries of a linear score."""

    def __init__(self, shape: AlignerDescription, dropout: float) -> None:
        super().__init__()
        self.shape, hidden = shape, shape.hidden
        self.queries = nn.Parameter(torch.randn(1, shape.queries, hidden) * 0.02)
        self.scale = nn.Parameter(torch.randn(1, shape.scales, hidden) * 0.02)
        self.picture, self.text = nn.Linear(shape.dim, hidden), nn.Linear(shape.text_dim, hidden)
        self.visual = nn.Linear(shape.dim, hidden)
        self.dropout = nn.Dropout(dropout)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=hidden,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=2 * hidden,
                encoder_hidden_size=hidden,
                cross_attention_frequency=1,
                use_qformer_text_input=True,  # the tokens after the queries have a feed-forward layer
                hidden_dropout_prob=dropout,
                attention_probs_dropout_prob=dropout,
            )
        )
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)

    def forward(self, visual: Tensor, text: Tensor, memory: Tensor, candidates: Tensor) -> Tensor:
        """(B, W), (B, T), (B, W), (B, C, W) -> (B, C)."""
        many, several = candidates.shape[:2]
        question = torch.stack(
            [
                self.text(self.dropout(text) * math.sqrt(self.shape.text_dim)),
                self.visual(self._per_scale(visual).mean(1)),
            ],
            dim=1,
        )
        asked = torch.cat([self.queries.expand(many, -1, -1), self._tokens(memory), question], dim=1)
        asked = asked[:, None].expand(-1, several, -1, -1).flatten(0, 1)
        said = self.qformer(
            query_embeds=asked,
            query_length=self.shape.queries,
            encoder_hidden_states=self._tokens(candidates.flatten(0, 1)),
        ).last_hidden_state[:, : self.shape.queries]
        scores: Tensor = self.head(said).mean((1, 2)).reshape(many, several)
        return scores

    def _tokens(self, vectors: Tensor) -> Tensor:
        tokens: Tensor = self.picture(self._per_scale(vectors)) + self.scale
        return tokens

    def _per_scale(self, vectors: Tensor) -> Tensor:
        """(N, scales · dim) -> (N, scales, dim), of about unit variance."""
        wide: Tensor = self.dropout(vectors) * math.sqrt(vectors.shape[1])
        return wide.reshape(len(vectors), self.shape.scales, self.shape.dim)


def residual(shape: AlignerDescription, dropout: float = 0.0) -> nn.Module | None:
    if shape.kind == "memory":
        return None
    return {"mlp": MlpResidual, "qformer": QFormerResidual}[shape.kind](shape, dropout)


def load_residual(
    shape: AlignerDescription, tensors: dict[str, Array]
) -> Callable[[Array, Array, Array, Sequence[Array]], list[Array]]:
    """The trained network of these tensors, as a function on arrays; questions may differ in candidates."""
    network = residual(shape)
    assert network is not None
    weights = {name.removeprefix(PREFIX): array for name, array in tensors.items() if name.startswith(PREFIX)}
    state = network.state_dict()  # beside the weights it has constants, which are not stored
    network.load_state_dict(state | {name: torch.from_numpy(array) for name, array in weights.items()})
    if missing := dict(network.named_parameters()).keys() - weights.keys():
        raise ValueError(f"it lacks {min(missing)}")
    network.eval()

    @torch.inference_mode()
    def scores(visual: Array, text: Array, memory: Array, candidates: Sequence[Array]) -> list[Array]:
        most = max(len(one) for one in candidates)
        padded = np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in candidates])
        inputs = (torch.from_numpy(array).float() for array in (visual, text, memory, padded))
        found = network(*inputs).numpy()
        return [row[: len(one)] for row, one in zip(found, candidates, strict=True)]

    return scores
