"""Addresses inside a file: `manual.pdf#page=3`, `shard.tar#bytes=1536+20480`, `x.parquet#cell=12+0`.

Only listing and parsing make them: nothing that a document writes is read as one, as `files.locate` wants
a file of that very name. Behind the mark stands no "/", so whatever the file is called, it lies in the same
folder. Reads nothing; `contents` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARK = re.compile(r"(.+)#(page|bytes|cell)=([0-9]{1,18})(?:\+([0-9]{1,18}))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Inside:
    """A page, from 1; an offset and a number of bytes; or a row, from 1, and its picture, from 0."""

    file: str
    kind: str
    first: int
    second: int


def page(address: str, number: int) -> str:
    """As PDF readers write it (RFC 8118)."""
    return f"{address}#page={number}"


def span(address: str, offset: int, size: int) -> str:
    return f"{address}#bytes={offset}+{size}"


def cell(address: str, row: int, picture: int) -> str:
    return f"{address}#cell={row}+{picture}"


def split(address: str) -> Inside | None:
    """What the address names inside a file, or None where it names a file."""
    found = _MARK.fullmatch(address)
    return Inside(found[1], found[2], int(found[3]), int(found[4] or 0)) if found else None


def depends_on(address: str) -> str:
    """The file or the bytes that decide what is at the address: of a page, its whole PDF."""
    within = split(address)
    return within.file if within and within.kind == "page" else address


def file_of(address: str) -> str:
    """The file at the address, or that the address leads into."""
    within = split(address)
    return within.file if within else address
