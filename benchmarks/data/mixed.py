"""Emoji and the GIMP manual in one index, and what is asked of either in words.

Pictures without a word beside them, and pictures in the middle of text: no branch of the search finds both.
Questions stay on their sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from . import emoji_across, gimp
from .judged import SPLITS, Row, read_rows, write_rows

TASK = "retrieval"
LICENCE = "those of emoji and gimp"
SETS = {"emoji": emoji_across, "gimp": gimp}


def build(work: Path, out: Path) -> None:
    for name, one in SETS.items():
        one.build(work, out / name)
    for file in ("manifest", *SPLITS):
        write_rows(
            out / f"{file}.jsonl", (row for name in SETS for row in _rows(out / name, f"{file}.jsonl"))
        )


def _rows(folder: Path, file: str) -> Iterator[Row]:
    """Those with words, or of a document; pictures as seen from beside the folder."""
    for row in read_rows(folder / file):
        if "relevant" in row and "text" not in row:
            continue
        yield row | ({"image": f"{folder.name}/{row['image']}"} if "image" in row else {})
