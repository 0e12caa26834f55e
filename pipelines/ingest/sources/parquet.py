"""The rows of a Parquet file, and the pictures that it holds as Hugging Face's `datasets` writes them.

There a column `image` or `images` is a struct `{bytes, path}`, or a list of such. Listing reads every column
but `bytes`; a picture is read when it is loaded, by its row and its ordinal there. Row groups stand alone:
one that is damaged or out of bounds costs itself.

A small file can say a lot: compressed pages, one text for a million rows, a list of a billion nulls. So
what is read is bounded by the size of the file, as its footer tells of it. What pages say against their own
footer is not checked: one page may then take up to 2 GiB, and a list's run of nulls what memory there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pyarrow.types as arrow_types
from pyarrow import Array, ArrowException, RecordBatch

from pipelines.core.errors import BadPart, SourceError
from pipelines.ingest.sources import files, inside, parquet_child, rows
from pipelines.ingest.sources.failures import passes
from pipelines.ingest.sources.records import SourceConfig
from pipelines.ingest.sources.rows import Cells

_BATCH_ROWS = 256
_BATCH_PICTURES = 16
_BUFFER_BYTES = 2**20
_MAX_COLUMNS = 1000
_MAX_PICTURES = 1000
_MAX_VALUES = 100_000  # in the lists of a row
_FREE_VALUES = 2**20  # that any file's lists may hold; else one a byte of the file
_WAIT_S = 60.0
_LOOK_AGAIN_S = 10
_MAX_RATIO = 50  # text compresses 3 to 20 times
_FREE_BYTES = 64 * 2**20  # what any file may inflate to
_LISTS = (arrow_types.is_list, arrow_types.is_large_list, arrow_types.is_fixed_size_list)
# What pyarrow raises for mutated files: some of it where it turns a footer's names into Python's.
_DAMAGE = (ArrowException, OSError, ValueError, LookupError, OverflowError)


def read_parquet(address: str, config: SourceConfig) -> Iterator[Cells]:
    """The rows, numbered from 1. Raises SourceError, or BadPart, for a file that is no table of documents."""
    forget_handles()
    with files.opened(address) as stream:
        try:
            table = _Table(stream, address)
        except SourceError:
            raise
        except _DAMAGE as exc:
            raise SourceError(f"{address}: no readable Parquet ({_line(exc)})") from exc
        budget = max(_FREE_BYTES, _MAX_RATIO * table.size)
        first = 1
        for group in range(table.file.num_row_groups):
            row, rows_said = first, table.file.metadata.row_group(group).num_rows
            try:
                table.check(group)
                for cells in _rows(table, group, first, address):
                    row = cells.line + 1
                    budget -= _size(cells.values)
                    if budget < 0:
                        reason = f"and all after it: they inflate to more than {_MAX_RATIO} times the file"
                        yield Cells(cells.line, reason=reason)
                        return
                    yield cells
                if row < first + rows_said:
                    raise BadPart(f"it holds {row - first:,} of the {rows_said:,} rows that it claims")
            except BadPart as exc:
                yield Cells(row, reason=f"and the rest of its row group: {exc}")
            except _DAMAGE as exc:
                if passes(exc):  # the rows are not gone
                    raise BadPart(f"{address}: cannot be read ({_line(exc)})") from exc
                yield Cells(row, reason=f"and the rest of its row group cannot be read ({_line(exc)})")
            first += rows_said
        if first - 1 != table.file.metadata.num_rows:
            said = f"{first - 1:,} rows, and the file of {table.file.metadata.num_rows:,}"
            yield Cells(first, reason=f"its row groups tell of {said}; write it anew")


def read_picture(address: str, row: int, picture: int, max_bytes: int) -> bytes:
    """The encoded picture of a row, both as `inside.cell` counts them. Raises BadPart."""
    try:
        pictures = _pictures(address, _state(address))
    except SourceError as exc:
        raise BadPart(str(exc)) from exc
    try:
        data = pictures.data(row, picture)
    except (BadPart, *_DAMAGE) as exc:
        if passes(exc):
            forget_handles()  # what is held open, and what is taken for lost
        raise BadPart(f"{address}: row {row} cannot be read ({_line(exc)})") from exc
    if not data:
        raise BadPart(f"{address}: row {row} has no bytes of picture {picture}; write them into the file")
    if len(data) > max_bytes:
        raise BadPart(f"{address}: row {row} has {len(data):,} bytes, more than the {max_bytes:,} allowed")
    return data


def forget_handles() -> None:
    """Open files anew from here on."""
    _pictures.cache_clear()
    _remote_state.cache_clear()


class _Table:
    """An open file: its columns that describe documents, and the one, if any, that holds pictures' bytes."""

    def __init__(self, stream: BinaryIO, address: str) -> None:
        self.size = stream.seek(0, 2)
        stream.seek(0)
        footer = pq.read_metadata(stream)
        columns = [footer.schema.column(n) for n in range(footer.num_columns)]
        if len(columns) > _MAX_COLUMNS:
            raise SourceError(f"{address}: has {len(columns):,} columns; at most {_MAX_COLUMNS:,}")
        # Texts that repeat stay references to one: a million rows of the same megabyte fit into memory.
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        self.file = pq.ParquetFile(
            stream,
            metadata=footer,
            pre_buffer=False,
            buffer_size=_BUFFER_BYTES,
            read_dictionary=texts,
        )
        schema = self.file.schema_arrow
        rows.check_columns(schema.names, address)
        held = [
            name for name in ("image", "images") if name in schema.names and _holds(schema, name, address)
        ]
        if len(held) > 1:
            raise SourceError(f"{address}: columns 'image' and 'images' both hold pictures; keep one")
        self.held = held[0] if held else ""
        paths = [column.path for column in columns]
        in_held = [path for path in paths if self.held and path.split(".")[0] == self.held]
        self.bytes = [path for path in in_held if path.endswith(".bytes")]
        left_out = {path for path in in_held if not path.endswith(".path")}
        self.described = [path for path in paths if path not in left_out]
        has_lists = any(column.max_repetition_level for column in columns)
        self._values_in_lists = _values_in_lists(stream, address) if has_lists else []

    def check(self, group: int) -> None:
        """Raises BadPart for a row group that says more than a file of this size can hold."""
        # Not by its columns, at which pyarrow may end the process (`parquet_child`).
        metadata = self.file.metadata.row_group(group)
        if metadata.total_byte_size > max(_FREE_BYTES, _MAX_RATIO * self.size):
            raise BadPart(f"it inflates to {metadata.total_byte_size:,} bytes, from a file of {self.size:,}")
        if metadata.num_rows > 8 * self.size:  # a row takes a bit at least
            raise BadPart(f"it claims {metadata.num_rows:,} rows in a file of {self.size:,} bytes")
        values = self._values_in_lists[group] if self._values_in_lists else 0
        if values > max(_FREE_VALUES, self.size):
            raise BadPart(f"its lists claim {values:,} values in a file of {self.size:,} bytes")


def _values_in_lists(stream: BinaryIO, address: str) -> list[int]:
    """Of each row group, the most values that a column of lists claims to hold."""
    tail_at = stream.seek(-8, os.SEEK_END)
    tail = stream.read(8)
    stream.seek(tail_at - int.from_bytes(tail[:4], "little"))
    footer = b"PAR1" + stream.read(int.from_bytes(tail[:4], "little")) + tail
    command = [sys.executable, "-P", str(Path(parquet_child.__file__))]
    try:
        done = subprocess.run(command, input=footer, capture_output=True, timeout=_WAIT_S, check=True)
    except subprocess.SubprocessError as exc:
        raise SourceError(
            f"{address}: no readable Parquet (what its footer says of lists is broken)"
        ) from exc
    counted: list[int] = json.loads(done.stdout)
    return counted


def _holds(schema: Any, name: str, address: str) -> bool:
    """Whether the column holds pictures themselves, in the one form that is read."""
    kind = schema.field(name).type
    if any(is_kind(kind) for is_kind in _LISTS):
        kind = kind.value_type
    if arrow_types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        data = kind.field("bytes").type
        if arrow_types.is_dictionary(data):
            data = data.value_type
        if arrow_types.is_binary(data) or arrow_types.is_large_binary(data):
            return True
    if arrow_types.is_dictionary(kind):
        kind = kind.value_type
    if arrow_types.is_struct(kind) or arrow_types.is_binary(kind) or arrow_types.is_large_binary(kind):
        raise SourceError(
            f"{address}: column {name!r} holds pictures themselves; it must hold paths, or structs "
            "{bytes, path} as Hugging Face's datasets write them"
        )
    return False


def _rows(table: _Table, group: int, first: int, address: str) -> Iterator[Cells]:
    line = first
    for batch in table.file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=table.described):
        for row in range(batch.num_rows):
            yield _row(batch.slice(row, 1), line, table.held, address)
            line += 1


def _row(row: RecordBatch, line: int, held: str, address: str) -> Cells:
    try:
        if held and not arrow_types.is_struct(row[held].type) and len(row[held].flatten()) > _MAX_PICTURES:
            return Cells(line, reason=f"has more than {_MAX_PICTURES:,} pictures")
        if sum(map(_values, row.columns)) > _MAX_VALUES:
            return Cells(line, reason=f"has more than {_MAX_VALUES:,} values in lists")
        values = row.to_pylist(maps_as_pydicts="strict")[0]
    # Not UTF-8 in a text column; a map with a key twice; a time that Python has no year for.
    except _DAMAGE as exc:
        return Cells(line, reason=f"cannot be read ({_line(exc)})")
    if not held:
        return Cells(line, values)
    found = values.pop(held, None)
    structs = found if isinstance(found, list) else [found]
    there = [ordinal for ordinal, struct in enumerate(structs) if struct is not None]
    return Cells(line, values, pictures=tuple(inside.cell(address, line, ordinal) for ordinal in there))


def _values(column: Array) -> int:
    """How many values stand in its lists, and in the lists in these."""
    kind = column.type
    if arrow_types.is_struct(kind):
        return sum(map(_values, column.flatten()))
    if arrow_types.is_map(kind):
        start, stop = (int(column.offsets[at].as_py()) for at in (0, -1))
        return stop - start + _values(column.items.slice(start, stop - start))
    if any(is_kind(kind) for is_kind in _LISTS):
        held = column.flatten()
        return len(held) + _values(held)
    return 0


def _size(values: Mapping[str, object] | None) -> int:
    """Characters and bytes of the row's texts, roughly: those in lists count by their number."""
    sized = (value for value in (values or {}).values() if isinstance(value, str | bytes | list | dict))
    return sum(len(str(value)) if isinstance(value, list | dict) else len(value) for value in sized)


class _Pictures:
    """One file's pictures, row by row. Rows in order cost one reading of their row group."""

    def __init__(self, address: str) -> None:
        with ExitStack() as stack:
            stream = stack.enter_context(files.opened(address))
            try:
                self._table = _Table(stream, address)
            except SourceError:
                raise
            except _DAMAGE as exc:
                raise BadPart(f"{address}: no readable Parquet ({_line(exc)})") from exc
            self._open = stack.pop_all()  # for as long as this object lives
        self._group_end = self._start = self._stop = 0
        self._batches: Iterator[RecordBatch] = iter(())
        self._lost: dict[range, str] = {}  # else each row of a damaged group costs another reading of it

    def data(self, row: int, picture: int) -> bytes:
        """The picture's bytes; none where the row has no such picture, or not its bytes."""
        wanted = row - 1
        for lost, reason in self._lost.items():
            if wanted in lost:
                raise BadPart(reason)
        if not self._start <= wanted < self._group_end:
            self._go_to_group(wanted)
        while wanted >= self._stop:
            self._go_on()
        value = self._column[wanted - self._start]
        if not value.is_valid:
            return b""
        held = [value] if arrow_types.is_struct(value.type) else list(value)
        struct = held[picture] if picture < len(held) else None
        return (struct["bytes"].as_py() if struct is not None and struct.is_valid else None) or b""

    def _go_on(self) -> None:
        try:
            batch = next(self._batches, None)
            if batch is None:
                raise OSError("its row group ends before it")
        except _DAMAGE as exc:
            self._lost[range(self._stop, self._group_end)] = _line(exc)
            self._group_end = self._stop
            raise
        self._column = batch.column(0)
        self._start, self._stop = self._stop, self._stop + batch.num_rows

    def _go_to_group(self, row: int) -> None:
        file = self._table.file
        first = 0
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if first <= row < end:
                self._table.check(group)
                self._batches = file.iter_batches(
                    _BATCH_PICTURES, row_groups=[group], columns=self._table.bytes
                )
                self._start = self._stop = first
                self._group_end = end
                return
            first = end
        raise OSError(f"the file has {first:,} rows")


@lru_cache(maxsize=1)  # a worker loads pictures in their order
def _pictures(address: str, state: tuple[int | str, ...]) -> _Pictures:
    return _Pictures(address)


def _state(address: str) -> tuple[int | str, ...]:
    """Another one for a file that was written anew; a store is asked for it every few seconds."""
    if files.is_remote(address):
        return _remote_state(address, int(time.monotonic()) // _LOOK_AGAIN_S)
    try:
        status = os.lstat(address)
    except OSError:
        return ()  # opening it will say why
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _remote_state(address: str, period: int) -> tuple[int | str, ...]:
    return (files.remote_stamp(address) or period,)


def _line(exc: BaseException) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return "it holds text that is not UTF-8"
    return str(exc).splitlines()[0] if str(exc) else type(exc).__name__
