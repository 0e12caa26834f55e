"""A LLaVA of a few thousand random weights, with its tokenizer, template and picture processor."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH = 32, 8
IMAGE_TOKENS = (SIDE // PATCH) ** 2
SPECIAL = ("<pad>", "<s>", "</s>", "<image>")
# Vicuna's words: a turn of the user's ends in a space, the assistant's in </s>.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}USER: {% elif m.role == 'assistant' %}ASSISTANT: {% endif %}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% else %} {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level without merges: one token a byte, after the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def tiny_llava(hidden: int = 64, layers: int = 2, seed: int = 0) -> LlavaForConditionalGeneration:
    """Random weights; the vision tower has three layers, of which the last gets no gradient."""
    tokenizer = byte_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, projection_dim=32, num_hidden_layers=3,
            num_attention_heads=2, image_size=SIDE, patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden,
            num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
            max_position_embeddings=512, tie_word_embeddings=False,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
    )  # fmt: skip
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config).eval()


def tiny_processor() -> LlavaProcessor:
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=byte_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )


def save_tiny_llava(directory: Path, **shape: int) -> Path:
    """A base model on disk, as a hub would give it."""
    tiny_llava(**shape).save_pretrained(directory)
    tiny_processor().save_pretrained(directory)
    return directory
