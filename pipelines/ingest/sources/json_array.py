"""The rows of a JSON array, streamed: a broken or too long one costs itself. Knows not what a row means.

Holds twice `max_row_bytes` of the file. Where JSON is broken, reading goes on at the next object that begins
like a row; no more than 64 of those are tried in a stretch of `max_row_bytes`: hostile text costs no hours.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.core.errors import BadPart
from pipelines.ingest.sources import files
from pipelines.ingest.sources.records import SourceConfig
from pipelines.ingest.sources.rows import Cells, load_object
from pipelines.ingest.sources.text import decode

_SPACE = re.compile(r"[ \t\r\n,]*")
_ROW = re.compile(r'\{\s{0,200}"(?:id|image|images|text|conversations)"\s{0,200}:')
_MARK_CHARS = 500  # what `_ROW` may match, and no row begins in less
_TRIES = 64
_HEAD_BYTES = 2**16
_JSON = json.JSONDecoder()


def is_array(address: str) -> bool:
    """Whether the file begins as a JSON array. Raises BadPart."""
    with files.opened(address) as stream:
        return stream.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def read_array(address: str, config: SourceConfig) -> Iterator[Cells]:
    """Each element, numbered from 1: an array may be one long line. Raises BadPart."""
    with files.opened(address) as stream:
        window = _Window(stream, max(config.max_row_bytes + 1, _HEAD_BYTES))
        window.fill()
        window.at = window.text.index("[") + 1
        number = 0
        while window.skip_space():
            number += 1
            if window.text[window.at] == "]":
                window.at += 1
                if window.skip_space():
                    yield Cells(number, reason="stands behind the end of the array, which is not read")
                return
            start = window.at
            end, broken = _value(window)
            if broken:
                # What ends behind the window looks broken too.
                too_long = len(window.text) - start > config.max_row_bytes
                limit = f", or the row is longer than the {config.max_row_bytes:,} bytes of max_row_bytes"
                yield Cells(number, reason=broken + (limit if too_long else ""))
                _go_to_next_row(window)
            else:
                window.at = end
                yield _cells(number, window.text[start:end], config.max_row_bytes)
        yield Cells(number + 1, reason="is missing: the file ends inside the array")


class _Window:
    """The text from position `at` on: at least `size` characters of it, while the file has them."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size, self.text, self.at, self.ended = size, "", 0, False
        self._stream = stream
        # Bytes that are no UTF-8 survive as surrogates, so that only their row is refused.
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")

    def fill(self) -> None:
        while len(self.text) - self.at < self.size and not self.ended:
            raw = self._stream.read(self.size)
            self.ended = not raw
            self.text = self.text[self.at :] + self._decoder.decode(raw, final=self.ended)
            self.at = 0

    def skip_space(self) -> bool:
        """Whether anything follows."""
        while True:
            self.fill()
            space = _SPACE.match(self.text, self.at)
            assert space is not None  # it matches the empty text
            self.at = space.end()
            if self.at < len(self.text):
                self.fill()
                return True
            if self.ended:
                return False


def _value(window: _Window) -> tuple[int, str]:
    """Where the value that begins here ends, or why it is none."""
    try:
        return _JSON.raw_decode(window.text, window.at)[1], ""
    except RecursionError:
        return 0, "JSON is nested too deeply"
    except json.JSONDecodeError as exc:
        return 0, f"broken JSON: {exc.msg} at character {exc.pos - window.at + 1}"
    except ValueError as exc:  # a number of more digits than Python converts
        return 0, f"broken JSON: {exc}"


def _cells(number: int, text: str, max_bytes: int) -> Cells:
    raw = text.encode("utf-8", "surrogateescape")
    try:
        if len(raw) > max_bytes:
            raise BadPart(f"is longer than the {max_bytes:,} bytes of max_row_bytes")
        return Cells(number, load_object(decode(raw, "the row")))
    except BadPart as exc:
        return Cells(number, reason=str(exc))


def _go_to_next_row(window: _Window) -> None:
    tries = 0
    window.at += 1
    while True:
        window.fill()
        found = _ROW.search(window.text, window.at)
        if found is None:
            if window.ended:
                window.at = len(window.text)
                return
            window.at = max(window.at + 1, len(window.text) - _MARK_CHARS)
            continue
        window.at = found.start()
        window.fill()
        if not _value(window)[1]:
            return
        tries += 1
        window.at = min(len(window.text), window.at + (1 if tries % _TRIES else window.size))
