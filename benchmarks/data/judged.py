"""A judged data set as files: what `mmrag ingest` reads, and what `mmrag evaluate` asks.

    FOLDER/manifest.jsonl             the documents, pictures beside it
    FOLDER/dev.jsonl, test.jsonl      what is asked of them, with what is right

To choose on `dev` and report on `test`: a question's key, the thing that it is about, decides the side by its
SHA-256 alone, so that no thing stands on both and no later question moves one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPLITS = ("dev", "test")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A row of a judged file, and the key that its side is drawn by."""

    key: str
    row: Row


def split_of(key: str) -> str:
    return SPLITS[hashlib.sha256(key.encode()).digest()[0] % 2]


def write(folder: Path, documents: Sequence[Row], questions: Iterable[Question]) -> None:
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for question in questions:
        rows[split_of(question.key)].append(question.row)
    for name, found in {"manifest": documents, **rows}.items():
        write_rows(folder / f"{name}.jsonl", found)


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def read_rows(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text("utf-8").split("\n") if line]


def sizes(folder: Path) -> dict[str, int]:
    """How many rows each of the files has."""
    found = {}
    for name in ("manifest", *SPLITS):
        with (folder / f"{name}.jsonl").open("rb") as lines:
            found[name] = sum(1 for _ in lines)
    return found
