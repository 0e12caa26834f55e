"""The rows of a JSON array, streamed: a broken or too long one costs itself. Knows not what a row means.

Holds twice `max_row_bytes` of the file. Where JSON is broken, reading goes on at the next object that begins
with a usual field, or as the first row does. That may lie in a list of the broken row: from then on a "]"
need not be the array's own. At most 64 are tried in a stretch of `max_row_bytes`: hostile text costs no
hours.
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
from pipelines.ingest.sources.rows import TOO_MANY_DIGITS, Cells, load_object
from pipelines.ingest.sources.text import decode

_SPACE = re.compile(r"[ \t\r\n,]*")
_USUAL = ("id", "image", "images", "text", "conversations")
_FIRST_FIELD = re.compile(r'\{\s{0,200}"([^"\\]{1,200})"\s{0,200}:')
_MARK_CHARS = 700  # what a row's beginning may match, and no row begins in less
_TRIES = 64
_HEAD_BYTES = 2**16
_JSON = json.JSONDecoder()


def is_array(address: str) -> bool:
    """Whether the file is a JSON array, or else JSON lines. Raises BadPart where it cannot be either."""
    with files.opened(address) as stream:
        head = stream.read(_HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip()
    if head.partition(b"\n")[0].strip() == b"{":
        raise BadPart(
            f"{address}: is one JSON object; it must be an array of rows, or have a row on each line"
        )
    return head.startswith(b"[")


def read_array(address: str, config: SourceConfig) -> Iterator[Cells]:
    """Each element, numbered from 1: an array may be one long line. Raises BadPart."""
    with files.opened(address) as stream:
        window = _Window(stream, max(config.max_row_bytes + 1, _HEAD_BYTES))
        window.fill()
        window.at = window.text.index("[") + 1
        number = 0
        is_damaged = False
        beginning = _beginning()
        while window.skip_space():
            if window.text[window.at] == "]":
                window.at += 1
                if not window.skip_space():
                    return
                if not is_damaged:
                    yield Cells(number + 1, reason="stands behind the end of the array, which is not read")
                    return
                _go_to_next_row(window, beginning)
                continue
            number += 1
            start = window.at
            end, broken = _value(window)
            if broken:
                # What ends behind the window looks broken too.
                too_long = len(window.text) - start > config.max_row_bytes
                limit = f", or the row is longer than the {config.max_row_bytes:,} bytes of max_row_bytes"
                yield Cells(number, reason=broken + (limit if too_long else ""))
                is_damaged = True
                window.at += 1
                _go_to_next_row(window, beginning)
            else:
                if number == 1 and (field := _FIRST_FIELD.match(window.text, start)):
                    beginning = _beginning(field[1])
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
    except ValueError:
        return 0, TOO_MANY_DIGITS


def _cells(number: int, text: str, max_bytes: int) -> Cells:
    raw = text.encode("utf-8", "surrogateescape")
    try:
        if len(raw) > max_bytes:
            raise BadPart(f"is longer than the {max_bytes:,} bytes of max_row_bytes")
        return Cells(number, load_object(decode(raw, "the row")))
    except BadPart as exc:
        return Cells(number, reason=str(exc))


def _beginning(*fields: str) -> re.Pattern[str]:
    """How a row begins: with one of the fields, or a usual one."""
    names = "|".join(map(re.escape, (*_USUAL, *fields)))
    return re.compile(rf'\{{\s{{0,200}}"(?:{names})"\s{{0,200}}:')


def _go_to_next_row(window: _Window, beginning: re.Pattern[str]) -> None:
    tries = 0
    while True:
        window.fill()
        found = beginning.search(window.text, window.at)
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
