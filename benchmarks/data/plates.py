"""Drawn machines: which documents say what is asked, in words or with a photograph of the plate?

The documents of `machines`, other ones for each side, in one index: texts, plates, scenes with a caption, and
texts that need a plate. A question's documents are right together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from . import machines
from .judged import Row, read_rows, write_rows

TASK = "retrieval"
LICENCE = "Apache-2.0, drawn by script"
MANY = 40
"""Questions of each kind and language, for each side."""
SEEDS = {"dev": 1, "test": 2}
"""0 is `benchmarks/modalities.py`'s."""


def build(work: Path, out: Path) -> None:
    documents: list[Row] = []
    for split, seed in SEEDS.items():
        made = machines.build(MANY, seed)
        machines.write(made, out / split)
        documents += _rows(out / split, "whole.jsonl")
        needed = {one.asked.id: one.asked.needed for one in made if one.asked.needed}
        write_rows(
            out / f"{split}.jsonl",
            (
                {key: row[key] for key in ("id", "language", "image") if key in row}
                | {"text": row["query"], "relevant": sorted(f"{split}-{one}" for one in needed[asked])}
                for row in _rows(out / split, "questions.jsonl")
                if (asked := row["id"].removeprefix(f"{split}-")) in needed
            ),
        )
    write_rows(out / "manifest.jsonl", documents)


def _rows(folder: Path, file: str) -> Iterator[Row]:
    """With ids that are its side's own, and pictures as seen from beside the folder."""
    for row in read_rows(folder / file):
        image = {"image": f"{folder.name}/{row['image']}"} if "image" in row else {}
        yield row | image | {"id": f"{folder.name}-{row['id']}"}
