"""Make the model directory that `tiny-llava` starts from: random weights, and a tokenizer of its data.

    python -m benchmarks.tiny_llava.model --data DIR/train.jsonl --out DIR/untrained

A CLIP tower and a Llama of 7.5 million weights together. Pictures are squares of 160 pixels, 100 tokens.
Numbers, codes and Chinese are read sign by sign: else 功率 would be one token where the evidence has it and a
part of another, 功率是多少, in the question. Knows nothing of training.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from benchmarks.tiny_llava.copying import begin_copying
from pipelines.core.grounding import FrameConfig

SIDE, PATCH = 160, 16
FRAME = FrameConfig(fit="pad", units=100)
"""Two digits say an edge: 1.6 pixels of the square."""
TOKENS_PER_IMAGE = (SIDE // PATCH) ** 2
VOCABULARY = 1280
CONTEXT = 768
SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def texts(data: Path) -> Iterator[str]:
    """What is said in a file of conversations."""
    with data.open(encoding="utf-8") as lines:
        for line in lines:
            yield from (said["value"].replace("<image>", "") for said in json.loads(line)["conversations"])


def train_tokenizer(corpus: Iterator[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al., arXiv 1508.07909; bytes as in GPT-2)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[0-9A-Z]|\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>", "<|system|>"],
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=CONTEXT,
    )


def processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_convert_rgb=True
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )


def untrained(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """Random weights, but for the tower's positions, which begin as sines and cosines of row and column, and
    the language model's attention, which begins able to copy (`copying.py`)."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=192, intermediate_size=768, projection_dim=192, num_hidden_layers=4,
            num_attention_heads=3, image_size=SIDE, patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=688,
            num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=CONTEXT, tie_word_embeddings=False,
            attention_bias=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,  # of a tower that learns every layer, none is to be left out
        vision_feature_select_strategy="default",
        image_seq_length=TOKENS_PER_IMAGE,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).eval()
    positions = model.model.vision_tower.get_submodule("embeddings.position_embedding").weight
    with torch.no_grad():
        positions[1:] = 0.5 * sines(SIDE // PATCH, positions.shape[1])
    begin_copying(model)
    return model


def sines(side: int, width: int) -> Tensor:
    """(side * side, width): a quarter each of sin and cos of the row and of the column, as in MAE
    (He et al., arXiv 2111.06377), with wavelengths from 6 to 600 patches.
    """
    frequencies = 1.0 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequencies
    along = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = along[:, None].expand(side, side, -1)
    columns = along[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)


def build(data: Path, out: Path, seed: int) -> LlavaForConditionalGeneration:
    tokenizer = train_tokenizer(texts(data))
    model = untrained(tokenizer, seed)
    model.save_pretrained(out)
    processor(tokenizer).save_pretrained(out)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = build(args.data, args.out, args.seed)
    print(f"{sum(weight.numel() for weight in model.parameters()):,} weights in {args.out}")


if __name__ == "__main__":
    main()
