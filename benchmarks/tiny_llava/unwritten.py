"""Give each token that stands in no answer a direction of its own in the output layer: adapters can teach it.

    python -m benchmarks.tiny_llava.unwritten --model DIR/last/merged --data DIR/train.jsonl

Training pushes the output rows of tokens that are never an answer's to one place ("representation
degeneration", Gao et al., arXiv 1907.12009): any two of them have a cosine of .98. An adapter changes what
comes before that layer, and so can raise all of them or none: no word with such a token could be learnt. Each
gets a random direction beside the common one, which keeps it as unlikely as before. Nothing else of the file
changes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

HEAD = "language_model.lm_head.weight"
LENGTH = 0.7  # of the new part; the common one's is about 2


def answers(data: Path) -> Iterator[str]:
    with data.open(encoding="utf-8") as lines:
        for line in lines:
            said = json.loads(line)["conversations"]
            yield from (one["value"] for one in said if one["from"] == "gpt")


def unwritten(data: Path, model: Path) -> list[int]:
    """Ids of the tokens that stand in no answer of a file of conversations, control tokens left out."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    said = tokenizer(list(answers(data)), add_special_tokens=False)["input_ids"]
    written = {token for ids in said for token in ids} | set(tokenizer.all_special_ids)
    written |= set(tokenizer.added_tokens_decoder)
    return sorted(set(range(len(tokenizer))) - written)


def spread(rows_VD: Tensor, ids: list[int], seed: int = 0) -> Tensor:
    """The rows with a random part of LENGTH added to those of `ids`."""
    generator = torch.Generator().manual_seed(seed)
    random_ND = torch.randn(len(ids), rows_VD.shape[1], generator=generator)
    changed = rows_VD.float().clone()
    changed[ids] += LENGTH * random_ND / random_ND.norm(dim=1, keepdim=True)
    return changed.to(rows_VD.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="its model.safetensors is changed")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl of benchmarks.tiny_llava.make")
    args = parser.parse_args()
    weights = args.model / "model.safetensors"
    with safe_open(weights, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(weights)
    ids = unwritten(args.data, args.model)
    before_ND = torch.nn.functional.normalize(tensors[HEAD][ids].float(), dim=1)
    tensors[HEAD] = spread(tensors[HEAD], ids)
    after_ND = torch.nn.functional.normalize(tensors[HEAD][ids].float(), dim=1)
    mode = weights.stat().st_mode
    save_file(tensors, weights, metadata)
    weights.chmod(mode)
    cosines = [f"{_mean_cosine(rows):.3f}" for rows in (before_ND, after_ND)]
    print(f"{len(ids)} tokens stand in no answer; mean cosine of two of their rows: {' -> '.join(cosines)}")


def _mean_cosine(unit_ND: Tensor) -> float:
    """Over all pairs of different rows."""
    count = len(unit_ND)
    return float((unit_ND.sum(0).square().sum() - count) / (count * (count - 1)))


if __name__ == "__main__":
    main()
