"""What each part of an index directory takes on disk. Opens no file and follows no link."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_PARTS: Final = {
    "vectors": "vectors",
    "lexical": "lexical",
    "cache": "cache",
    "previews": "previews",
    "ocr": "readings",
    "captions": "captions",
    "ledger": "ledger",
    "ledger.parquet": "ledger",  # of an earlier version
    "rejected": "rejected",
    "runs": "runs",
}
_GENERATIONS: Final = "generations"


def bytes_by_part(directory: Path) -> Mapping[str, int]:
    """Of all generations; a part that is not there has 0, what is none of them is `other`. What goes
    meanwhile, or may not be looked into, is not counted."""
    found = {**dict.fromkeys(_PARTS.values(), 0), "other": 0}
    for home in (directory, *(Path(entry) for entry in _entries(directory / _GENERATIONS))):
        for entry in _entries(home):
            if entry.name != _GENERATIONS:
                name = entry.name.partition("_g")[0]  # `lexical_g1` is the lexical store of generation 1
                found[_PARTS.get(name, "other")] += _size(entry)
    return found


def _size(entry: os.DirEntry[str]) -> int:
    """Of a file, or of all files below a folder."""
    total, waiting = 0, [entry]
    while waiting:
        one = waiting.pop()
        with suppress(OSError):
            if one.is_dir(follow_symlinks=False):
                waiting += _entries(one.path)
            else:
                total += one.stat(follow_symlinks=False).st_size
    return total


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(folder) as entries:
        return list(entries)
    return []
