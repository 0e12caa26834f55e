"""A manifest as a source: one document a row of JSON, CSV or Parquet, streamed.

A broken row is rejected with its line number and the next one is read. What a row means is not
known here (`rows`), but whether it names a document at all is.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

from pipelines.core.addresses import refuse_secret
from pipelines.core.errors import BadPart, BadText, SourceError
from pipelines.core.types import Scalar
from pipelines.ingest.sources import files, rows
from pipelines.ingest.sources.json_array import is_array, read_array
from pipelines.ingest.sources.parquet import read_parquet
from pipelines.ingest.sources.records import Item, Rejected, SourceConfig
from pipelines.ingest.sources.rows import Cells
from pipelines.ingest.sources.text import decode

MANIFESTS = frozenset({".json", ".jsonl", ".ndjson", ".csv", ".parquet"})


def list_manifest(
    address: str, config: SourceConfig, types: Mapping[str, str] = MappingProxyType({})
) -> Iterator[Item | Rejected]:
    """The documents of a manifest. Raises SourceError when it cannot be read or has no known column.

    A CSV's columns are of the `types` (`metadata.type_name`) that their fields are known to have.
    """
    try:
        for cells in _reader(address, types)(address, config):
            yield _item(cells, address, config)
    except BadPart as exc:  # the file itself; its rows give theirs as data
        raise SourceError(str(exc)) from exc


def _reader(address: str, types: Mapping[str, str]) -> Callable[[str, SourceConfig], Iterator[Cells]]:
    form = address.lower().rpartition(".")[2]
    if form == "csv":
        return partial(_csv, types=types)
    if form == "parquet":
        return read_parquet
    # JSON lines are often named .json.
    return read_array if form == "json" and is_array(address) else _json_lines


def _item(cells: Cells, address: str, config: SourceConfig) -> Item | Rejected:
    """The row's document. Whatever is wrong with the row becomes a rejection that names its line."""
    where = f"{files.base_name(address)}:{cells.line}"
    known_as = where
    root = files.parent(address)
    try:
        if cells.values is None:
            raise BadPart(cells.reason)
        row = rows.read_row(rows.own_names(cells.values))
        known_as = row.id or where
        if not row.images and not cells.pictures and not row.text and not row.caption:
            raise BadPart("has neither 'image' (or 'images') nor 'text'")
        if not row.id and not row.images and not cells.pictures:
            raise BadPart("has no 'id' and no 'image' that could name it")
        inputs = (*cells.pictures, *_usable(row.images, root, config))
        if not row.id:
            own_name = f"{files.base_name(root)}/{where}"
            identity = rows.check_id(own_name) if cells.pictures else _id_of_picture(row.images[0], root)
            row = replace(row, id=identity)
        return rows.row_item(row, address, inputs, config)
    except BadPart as exc:
        return Rejected(known_as, f"{address}:{cells.line}", "list", f"{where}: {exc}")


def _usable(images: tuple[str, ...], root: str, config: SourceConfig) -> Iterator[str]:
    """The addresses of the pictures that are there. Parsing says what is wrong with the others."""
    for image in images:
        try:
            yield files.locate(image, root, root, config)
        except BadPart:
            continue


def _id_of_picture(path: str, root: str) -> str:
    """As a folder would name it: behind the folder's name when the path is relative to it."""
    path = files.strip_file_scheme(path)
    if files.is_remote(path):
        refuse_secret(path, BadPart)
    else:
        path = path.removeprefix(root + "/").removeprefix("./")
        path = path if path.startswith("/") else f"{files.base_name(root)}/{path}"
    return rows.check_id(path)


def _lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Line number and line; None for one that is longer than the bound, which is skipped unread."""
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        if len(line) > max_bytes and not line.endswith(b"\n"):
            while (rest := stream.readline(max_bytes)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def _too_long(config: SourceConfig) -> str:
    return f"is longer than the {config.max_row_bytes:,} bytes of max_row_bytes"


def _json_lines(address: str, config: SourceConfig) -> Iterator[Cells]:
    with files.opened(address) as stream:
        for number, line in _lines(stream, config.max_row_bytes):
            if line is None:
                yield Cells(number, reason=_too_long(config))
                continue
            try:
                text = decode(line, "the line").strip()
                if text:
                    yield Cells(number, rows.load_object(text))
            except BadPart as exc:
                yield Cells(number, reason=str(exc))


def _csv(address: str, config: SourceConfig, types: Mapping[str, str]) -> Iterator[Cells]:
    """Rows with typed metadata: a column is of its known type, with texts for the cells that do not fit, else
    whole numbers, numbers or truth values if all of its cells are.

    So the file is read twice: types that were settled row by row would conflict within a column.
    """
    columns: dict[str, _Type] = {}
    names: list[str] = []
    for line, cells in _csv_rows(address, config):
        if isinstance(cells, str):
            if not names:
                raise SourceError(f"{address}:{line}: the header cannot be read: {cells}")
            continue
        if not names:
            names = cells
            rows.check_columns(names, address)
            known = rows.KNOWN | rows.benchmark_names(names).keys()
            columns = {name: _Type(types.get(name, "")) for name in names if name not in known}
        elif len(cells) == len(names):
            for name, cell in zip(names, cells, strict=True):
                if name in columns:
                    columns[name].see(cell)
    if not names:
        raise SourceError(f"{address}: is empty; its first line must name the columns")
    header = True
    for line, cells in _csv_rows(address, config):
        if isinstance(cells, str):
            yield Cells(line, reason=cells)
        elif header:
            header = False
        elif len(cells) != len(names):
            yield Cells(line, reason=f"has {len(cells)} cells, the header {len(names)}")
        else:
            yield _typed(line, dict(zip(names, cells, strict=True)), columns)


def _typed(line: int, cells: Mapping[str, str], columns: Mapping[str, _Type]) -> Cells:
    values: dict[str, object] = {}
    try:
        for name, cell in cells.items():
            if cell == "":
                continue
            if name in columns:
                values[name] = columns[name].convert(cell)
            elif name == "metadata" or (name in ("image", "images") and cell.lstrip().startswith("[")):
                values[name] = json.loads(cell)
            else:
                values[name] = cell
    except (ValueError, RecursionError) as exc:
        return Cells(line, reason=f"column {name!r} holds broken JSON: {exc}")
    return Cells(line, values)


# No leading zero (007 is a code), no digit groups, no nan.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_BOOL = {"true": True, "false": False}


def _int(cell: str) -> int | None:
    return int(cell) if _INT.fullmatch(cell) else None


def _float(cell: str) -> float | None:
    return float(cell) if len(cell) <= 40 and _FLOAT.fullmatch(cell) else None


def _bool(cell: str) -> bool | None:
    return _BOOL.get(cell.lower())


_READERS: Mapping[str, tuple[Callable[[str], Scalar | None], ...]] = {
    "": (_bool, _int, _float),
    "bool": (_bool,),
    "number": (_int, _float),
    "str": (),
}


class _Type:
    """The narrowest type that reads every cell of a column that was seen; of one of a known type, every cell
    that fits it. A cell that is not read is a text."""

    def __init__(self, known: str) -> None:
        self._readers = list(_READERS[known])
        self._is_known = bool(known)

    def see(self, cell: str) -> None:
        fitting = [read for read in self._readers if read(cell) is not None]
        if cell and (fitting or not self._is_known):
            self._readers = fitting

    def convert(self, cell: str) -> Scalar:
        value = self._readers[0](cell) if self._readers else None
        return cell if value is None else value


_TIMES_AGAIN = 16  # so often a stretch of max_row_bytes is read again, at most, in search of its sound rows


class _RowTooLongError(Exception):
    """A quoted field went on past the bound."""


def _csv_rows(address: str, config: SourceConfig) -> Iterator[tuple[int, list[str] | str]]:
    """The line a row starts on, and its cells, or why it cannot be read.

    A quote that is never closed swallows the lines after it: on an error only the first line of
    the row is given up, and reading goes on with the second. Where that costs too much, as in hostile
    text, all lines of a stretch of `max_row_bytes` are given up.
    """
    # The module's own limit (128 KiB a field) holds for the process; ours holds for a row.
    csv.field_size_limit(max(csv.field_size_limit(), config.max_row_bytes))
    with files.opened(address) as stream:
        feed = _Feed(stream, config)
        reader = csv.reader(feed, strict=True)
        while True:
            feed.start_row()
            reason = ""
            cells: list[str] = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _RowTooLongError:
                reason = _too_long(config)
            except csv.Error as exc:
                reason = f"broken CSV: {exc}; is every quote closed?"
            except BadText as exc:
                reason = str(exc)
            if reason:
                first = feed.first
                last = feed.give_up()
                more = (
                    f"; as so many before it, and all up to line {last:,} are left out"
                    if last > first
                    else ""
                )
                yield first, reason + more
                reader = csv.reader(feed, strict=True)
            elif cells:
                yield feed.first, cells


class _Line(NamedTuple):
    """`data` is None where it is longer than a row may be; `at` is the byte it begins at, without such."""

    number: int
    data: bytes | None
    at: int


class _Feed:
    """Lines for a csv reader, which remembers those of the current row, to read them again."""

    def __init__(self, stream: BinaryIO, config: SourceConfig) -> None:
        self._fresh = _lines(stream, config.max_row_bytes)
        self._max_bytes = config.max_row_bytes
        self._row: list[_Line] = []
        self._again: deque[_Line] = deque()
        self._bytes = 0  # of the row
        self._at = 0  # where the next fresh line begins
        self._stretch_end = 0
        self._to_read_again = 0  # bytes, in this stretch

    @property
    def first(self) -> int:
        return self._row[0].number if self._row else 0

    def start_row(self) -> None:
        self._row, self._bytes = [], 0

    def give_up(self) -> int:
        """The row's first line is not read again. The number of the last one that is not."""
        first, *others = self._row
        self._again.extendleft(reversed(others))
        if first.at >= self._stretch_end:
            self._stretch_end, self._to_read_again = first.at + self._max_bytes, 0
        self._to_read_again += self._bytes - len(first.data or b"")
        last = first
        if self._to_read_again > _TIMES_AGAIN * self._max_bytes:
            while (line := self._next()) and line.at < self._stretch_end:
                last = line
            if line:
                self._again.appendleft(line)
        return last.number

    def _next(self) -> _Line | None:
        if self._again:
            return self._again.popleft()
        for number, data in self._fresh:
            line = _Line(number, data, self._at)
            self._at += len(data or b"")
            return line
        return None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._next()
        if line is None:
            raise StopIteration
        self._row.append(line)
        self._bytes += len(line.data or b"")
        if line.data is None or self._bytes > self._max_bytes:
            raise _RowTooLongError
        return decode(line.data, "the line")
