"""Where the rows of a JSON array or of a JSONL file lie, so that any row can be read on its own.

Knows what JSON is and nothing of what a row means. A broken row of an array costs itself: reading goes on at
the next thing that looks like a row.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import UsageError

MAX_ROW_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 2 * 2**30
"""An array is held in memory while it is indexed: at this limit 4 to 10 GB. A JSONL file never is."""

_LINES = (".jsonl", ".ndjson")
_SPACE = re.compile(r"[ \t\r\n,]*")
_OBJECT = re.compile(r'\{\s*"')
_ROW_KEYS = frozenset({"conversations", "messages"})
_SKIP_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"


class RowSpan(NamedTuple):
    """A row at file[offset : offset + length], which begins on `line` (from 1).

    A length of -1 says that the row is above MAX_ROW_BYTES. `repeats` is the line of an equal row before it,
    else 0.
    """

    offset: int
    length: int
    line: int
    repeats: int


def index_rows(path: Path) -> NDArray[np.int64]:
    """(rows, 4): a RowSpan each. Raises OSError, or UsageError for an array that is too large."""
    seen: dict[bytes, int] = {}
    spans: list[RowSpan] = []
    is_array = path.suffix.lower() not in _LINES and _first_byte(path) == b"["
    for offset, raw, line in _array(path) if is_array else _lines(path):
        if raw is None or len(raw) > MAX_ROW_BYTES:
            spans.append(RowSpan(offset, -1, line, 0))
            continue
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        spans.append(RowSpan(offset, len(raw), line, seen.get(digest, 0)))
        seen.setdefault(digest, line)
    return np.array(spans, np.int64).reshape(-1, len(RowSpan._fields))


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(2**16).removeprefix(_BOM).lstrip()[:1]


def _lines(path: Path) -> Iterator[tuple[int, bytes | None, int]]:
    """Offset, bytes (None: too long, and not kept) and number of each line that is not blank."""
    with path.open("rb") as stream:
        offset = line = 0
        while raw := stream.readline(MAX_ROW_BYTES + 1):
            line += 1
            length = len(raw)
            piece = raw
            while len(raw) > MAX_ROW_BYTES and piece and not piece.endswith(b"\n"):
                piece = stream.readline(_SKIP_BYTES)
                length += len(piece)
            if len(raw) > MAX_ROW_BYTES:
                yield offset, None, line
            elif raw.removeprefix(_BOM).strip():
                yield offset, raw.rstrip(), line
            offset += length


def _array(path: Path) -> Iterator[tuple[int, bytes, int]]:
    """Offset, bytes and line of each element."""
    if path.stat().st_size > MAX_ARRAY_BYTES:
        limit = f"{MAX_ARRAY_BYTES / 2**30:.0f} GiB"
        raise UsageError(f"{path}: a JSON array above {limit}; write a row a line (jq -c '.[]') as .jsonl")
    # Bytes that are no UTF-8 survive as surrogates, so that characters can be counted back to bytes.
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    decoder = json.JSONDecoder()
    position = text.index("[") + 1
    offset, line = len(_bytes(text[:position])), 1 + text.count("\n", 0, position)
    while True:
        start = _after_space(text, position)
        offset += start - position  # all of it ASCII
        line += text.count("\n", position, start)
        if start == len(text) or (text[start] == "]" and _after_space(text, start + 1) == len(text)):
            return
        try:
            _, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = _next_row(text, start + 1, decoder)
        raw = _bytes(text[start:end])
        yield offset, raw.rstrip(b" \t\r\n,"), line
        offset += len(raw)
        line += text.count("\n", start, end)
        position = end


def _next_row(text: str, position: int, decoder: json.JSONDecoder) -> int:
    """Where the next sound row begins, or the end of the text: a turn is an object too, but no row."""
    for found in _OBJECT.finditer(text, position):
        try:
            value, _ = decoder.raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and not _ROW_KEYS.isdisjoint(value):
            return found.start()
    return len(text)


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None  # it matches the empty text
    return space.end()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
