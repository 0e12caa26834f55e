"""An export: Parquet and one JSON file, on any file system of pyarrow's. Knows no index and no store.

    ADDRESS/export.json           whose it is, spaces, metadata types, the shards and their rows; written last
    ADDRESS/export.unfinished     whose export goes on, or was cut short, and in which folder
    ADDRESS/data-*/visual/        pictures: part and vector
    ADDRESS/data-*/text/          chunks: part and vector
    ADDRESS/data-*/previews/      a picture's content hash and its preview
    ADDRESS/data-*/readings/      a picture's content hash and the text read in it
    ADDRESS/data-*/ledger/        what was ingested
    ADDRESS/data-*/pictures/      a picture's document, content hash and perceptual hash
    ADDRESS/data-*/near_duplicates/000000.parquet    the report of pictures that look the same

Each export has a folder of its own, so that the one before stands until `export.json` names another. The
first format had the shards beside `export.json`; it and the second, which lacks the last two, are read.

Nothing longer is written than is read. Reading trusts nothing: names have forms that lead nowhere else, forms
and sizes are checked before a row is read, pages carry checksums. As in `sources.parquet`, what pages say
against their own footer is not bounded.
"""

from __future__ import annotations

import itertools
import os
import re
import uuid
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as arrow_types
from pyarrow import fs as arrow_fs
from pydantic import ValidationError

from pipelines.core.errors import BadExport, BadPart, StoreError, UsageError
from pipelines.core.files import sync
from pipelines.ingest.archive_form import (
    COMING,
    CONTENTS,
    FIRST_FORMAT,
    FOLDER,
    FORMAT,
    UNFINISHED,
    Contents,
    DataSet,
    Mark,
    Name,
)
from pipelines.ingest.sources.files import is_remote, open_uri, strip_file_scheme

_SHARD_BYTES: Final = 256 * 2**20
_GROUP_ROWS: Final = 1024
_GROUP_BYTES: Final = 64 * 2**20
_MAX_GROUP_BYTES: Final = 512 * 2**20  # 1,024 rows with every field as long as a store takes it
_MAX_CONTENTS_BYTES: Final = (
    64 * 2**20
)  # 100,000 metadata fields whose names are as long as a store takes them
_MAX_MARK_BYTES: Final = 2**16
_BUFFER_BYTES: Final = 2**20
# What pyarrow raises where there is no such file, none that can be written, and for mutated ones.
_DAMAGE: Final = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, NotImplementedError)


class _TooLongError(Exception):
    """A value or a row that is whole, and longer than any import takes."""


class Archive:
    """An export at an address, a local path or any that pyarrow opens. UsageError where none can be."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") or "/"
        if is_remote(address):
            self._files, self._root = open_uri(address)
        else:
            try:
                self._root = os.path.realpath(strip_file_scheme(address))
            except BadPart as exc:
                raise UsageError(str(exc)) from exc
            self._files = arrow_fs.LocalFileSystem()
        self._root = self._root.rstrip("/")

    def begin(self, identity: str, *, is_empty: bool = False, replace: bool = False) -> str:
        """Make room for a new export of the index of this identity. Returns the folder of its shards.

        A whole one that is there stays until `end`; what a cut one of this index left is deleted. Raises
        UsageError for anything else that is there. So it does, unless this is to `replace` them, for an
        export of another index, be it whole or not, and for one of parts where the new one `is_empty`.
        """
        with self._translated(""):
            if self._files.get_file_info(self._root).type is arrow_fs.FileType.File:
                raise UsageError(f"{self.address} is a file; name a directory")
            there = {info.base_name for info in self._list()}
        ours = all(map(_is_ours, there))
        standing = self.contents() if ours and CONTENTS in there else None
        mark = self._mark() if ours else None
        if there and not (standing or mark):
            raise UsageError(f"{self.address} is not empty and no earlier export; name another directory")
        if not replace:
            self._require_replaceable(identity, is_empty, standing, mark)
        folder = f"data-{uuid.uuid4().hex}"
        with self._translated(""):
            self._files.create_dir(self._root, recursive=True)
            self._write(UNFINISHED, Mark(identity=identity, folder=folder).model_dump_json().encode())
            self._clear(_left(there, identity, mark) - (standing.names if standing else set()))
        return folder

    def write(self, folder: str, data_set: DataSet, tables: Iterable[pa.Table]) -> tuple[int, ...]:
        """Write a data set in shards as the tables come. Returns the rows of each."""
        coming = iter(tables)
        written: list[int] = []
        for first in coming:
            if not written:
                with self._translated(data_set.name):
                    self._files.create_dir(self._path(f"{folder}/{data_set.name}"))
            file = _shard(folder, data_set.name, len(written))
            written.append(self._write_shard(file, data_set, itertools.chain([first], coming)))
        return tuple(written)

    def end(self, contents: Contents) -> None:
        """From here on it is the export at this address. The one before is deleted.

        Raises BadExport, and the one before stands, where not all of it is there or another was begun.
        """
        body = contents.model_dump_json(indent=1).encode()
        if len(body) > _MAX_CONTENTS_BYTES:
            raise BadExport(
                f"{self.address}/{CONTENTS} would have {len(body):,} bytes, of which an import reads "
                f"{_MAX_CONTENTS_BYTES:,}: the index has {len(contents.metadata_types):,} metadata fields"
            )
        self._require_whole(contents)
        if self._mark() != Mark(identity=contents.identity, folder=contents.folder):
            raise BadExport(
                f"{self.address}: another export was begun here meanwhile, and this one is given up; give "
                "each index an address of its own"
            )
        with self._translated(CONTENTS):
            for folder in ("", contents.folder, *(f"{contents.folder}/{name}" for name in get_args(Name))):
                self._sync(folder)
            self._swap(body)
        with self._translated(""):
            self._clear({info.base_name for info in self._list()} - {*contents.names, UNFINISHED})
            self._files.delete_file(self._path(UNFINISHED))

    def contents(self) -> Contents:
        """Raises UsageError where there is no whole export, or one of another format."""
        body = self._read_small(CONTENTS, _MAX_CONTENTS_BYTES)
        if body is None:
            raise UsageError(f"{self.address} holds no whole export: no {CONTENTS}, which is written last")
        if len(body) > _MAX_CONTENTS_BYTES:
            raise UsageError(f"{self.address}/{CONTENTS} has more than {_MAX_CONTENTS_BYTES:,} bytes")
        try:
            return Contents.model_validate_json(body)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UsageError(
                f"{self.address}/{CONTENTS}: {where}: {first['msg']}; "
                f"this version of mmrag reads formats 1 to {FORMAT}"
            ) from exc

    def read(self, data_set: DataSet, contents: Contents) -> Iterator[tuple[str, pa.Table]]:
        """Batches of the data set as its schema says, without nulls, and the name of the file of each."""
        for number, expected in enumerate(contents.shards.of(data_set.name)):
            file = _shard(contents.folder, data_set.name, number)
            with self.checked(file), self._files.open_input_file(self._path(file)) as stream:
                opened = _open_shard(stream, data_set, expected)
                for batch in opened.iter_batches(data_set.batch_rows):
                    yield file, _plain(batch, data_set)

    @contextmanager
    def checked(self, file: str) -> Iterator[None]:
        """What is found wrong inside is raised as BadExport with the name of the file."""
        try:
            yield
        except FileNotFoundError as exc:
            raise BadExport(f"{self.address}/{file}: does not exist; is the copy complete?") from exc
        except _TooLongError as exc:
            raise BadExport(f"{self.address}/{file}: {exc}, which no import takes") from exc
        except (BadPart, StoreError, RecursionError, *_DAMAGE) as exc:
            raise BadExport(f"{self.address}/{file}: is damaged or cut short ({_line(exc)})") from exc

    @contextmanager
    def _translated(self, file: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, NotImplementedError) as exc:
            raise BadExport(f"{self.address}/{file}: {_line(exc)}") from exc

    def _write_shard(self, file: str, data_set: DataSet, tables: Iterable[pa.Table]) -> int:
        num_rows, size, schema = 0, 0, data_set.schema
        texts = [field.name for field in schema if arrow_types.is_string(field.type)]
        options = {"compression": "zstd", "use_dictionary": texts, "write_page_checksum": True}
        with (
            self._translated(file),
            pq.ParquetWriter(self._path(file), schema, filesystem=self._files, **options) as writer,
        ):
            for table in tables:
                for group in _groups(table):
                    try:
                        _require_plain(group, data_set)
                        if group.nbytes > _MAX_GROUP_BYTES:
                            raise _TooLongError(
                                f"a row of {group.nbytes:,} bytes; at most {_MAX_GROUP_BYTES:,}"
                            )
                    except (ValueError, _TooLongError) as exc:
                        raise BadExport(f"{self.address}/{file}: {exc}, which no import takes") from exc
                    writer.write_table(group, row_group_size=_GROUP_ROWS)
                num_rows, size = num_rows + len(table), size + table.nbytes
                if size >= _SHARD_BYTES:
                    break
        with self._translated(file):
            self._sync(file)
        return num_rows

    def _swap(self, body: bytes) -> None:
        """Write `export.json` at once: an object store shows a file when it is whole, a disk by a move."""
        if not isinstance(self._files, arrow_fs.LocalFileSystem):
            self._write(CONTENTS, body)
            return
        self._write(COMING, body)
        self._sync(COMING)
        self._files.move(self._path(COMING), self._path(CONTENTS))
        self._sync("")

    def _sync(self, file: str) -> None:
        """Wait until the disk holds a file, or a folder's names: after a power cut, too, the export before
        stands until this one does. An object store answers when it holds what it was given."""
        path = Path(self._path(file))
        if isinstance(self._files, arrow_fs.LocalFileSystem) and path.exists():
            sync(path)

    def _clear(self, names: Collection[str]) -> None:
        """Delete these of what exports wrote here."""
        for info in self._list():
            if info.base_name not in names or not _is_ours(info.base_name):
                continue
            is_folder = info.type is arrow_fs.FileType.Directory
            delete = self._files.delete_dir if is_folder else self._files.delete_file
            delete(self._path(info.base_name))

    def _require_replaceable(
        self, identity: str, is_empty: bool, standing: Contents | None, mark: Mark | None
    ) -> None:
        if mark and mark.identity not in ("", identity):
            raise UsageError(
                f"{self.address}: an export of the index {mark.identity} has not ended; name another "
                "directory, or, if it was cut short, give --replace"
            )
        if standing and standing.identity not in ("", identity):
            raise UsageError(
                f"{self.address} holds an export of another index, {standing.identity}, of "
                f"{standing.created}; name another directory, or give --replace"
            )
        if (
            standing
            and is_empty
            and (held := standing.shards.total("visual") + standing.shards.total("text"))
        ):
            raise UsageError(
                f"{self.address} holds an export of {held:,} pictures and texts, and this index has none: is "
                "it the one that you mean, and was its source there? If they may go, give --replace"
            )

    def _require_whole(self, contents: Contents) -> None:
        """Raise BadExport unless every shard is there, with its rows."""
        for name in get_args(Name):
            for number, expected in enumerate(contents.shards.of(name)):
                file = _shard(contents.folder, name, number)
                try:
                    with self.checked(file), self._files.open_input_file(self._path(file)) as stream:
                        _require_rows(pq.read_metadata(stream), expected)
                except BadExport as exc:
                    raise BadExport(f"{exc}; it was just written: is another export made here?") from exc

    def _mark(self) -> Mark | None:
        """That of an export that goes on or was cut short; None where there is none. One that an earlier
        version wrote, or that was itself cut short, says nothing."""
        body = self._read_small(UNFINISHED, _MAX_MARK_BYTES)
        try:
            return None if body is None else Mark.model_validate_json(body)
        except ValidationError:
            return Mark()

    def _read_small(self, file: str, max_bytes: int) -> bytes | None:
        """What is in it, or one byte more than `max_bytes` of that; None where there is no such file."""
        with self._translated(file):
            if self._files.get_file_info(self._path(file)).type is not arrow_fs.FileType.File:
                return None
            with self._files.open_input_stream(self._path(file)) as stream:
                return stream.read(max_bytes + 1)  # type: ignore[no-any-return]

    def _write(self, file: str, body: bytes) -> None:
        with self._files.open_output_stream(self._path(file)) as stream:
            stream.write(body)

    def _list(self) -> list[Any]:
        return self._files.get_file_info(arrow_fs.FileSelector(self._root or "/", allow_not_found=True))  # type: ignore[no-any-return]

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}" if file else self._root


def _is_ours(name: str) -> bool:
    known = {*FIRST_FORMAT, CONTENTS, COMING, UNFINISHED}
    return name in known or re.fullmatch(FOLDER, name) is not None


def _left(there: set[str], identity: str, mark: Mark | None) -> set[str]:
    """What a cut export left that nobody writes any more, as one index is exported once at a time. Of an
    earlier version's, which did not tell its folder, it may be all that is there."""
    if mark is None or mark.identity not in ("", identity):
        return set()
    return {mark.folder} if mark.folder else there - {UNFINISHED}


def _shard(folder: str, name: Name, number: int) -> str:
    file = f"{name}/{number:06d}.parquet"
    return f"{folder}/{file}" if folder else file


def _open_shard(stream: Any, data_set: DataSet, expected: int) -> pq.ParquetFile:
    """Raises ValueError unless it has this schema, this many rows, and row groups within bounds."""
    footer = pq.read_metadata(stream)
    _require_rows(footer, expected)
    if not footer.schema.to_arrow_schema().equals(data_set.schema):
        wanted = ", ".join(f"{field.name}: {field.type}" for field in data_set.schema)
        raise ValueError(f"other columns than {wanted}")
    for group in range(footer.num_row_groups):
        if (size := footer.row_group(group).total_byte_size) > _MAX_GROUP_BYTES:
            raise ValueError(f"a row group of {size:,} bytes; at most {_MAX_GROUP_BYTES:,}")
    columns = [footer.schema.column(n) for n in range(footer.num_columns)]
    return pq.ParquetFile(
        stream,
        metadata=footer,
        pre_buffer=False,
        buffer_size=_BUFFER_BYTES,
        page_checksum_verification=True,
        # Texts that repeat stay references to one until their length is known.
        read_dictionary=[column.path for column in columns if column.physical_type == "BYTE_ARRAY"],
    )


def _require_rows(footer: Any, expected: int) -> None:
    if footer.num_rows != expected:
        raise ValueError(f"{footer.num_rows:,} rows, but {CONTENTS} says {expected:,}")


def _groups(table: pa.Table) -> Iterator[pa.Table]:
    """The rows of each row group, which are few or short enough for an import."""
    if len(table) > 1 and (len(table) > _GROUP_ROWS or table.nbytes > _GROUP_BYTES):
        half = len(table) // 2
        yield from _groups(table.slice(0, half))
        yield from _groups(table.slice(half))
    else:
        yield table


def _plain(batch: pa.RecordBatch, data_set: DataSet) -> pa.Table:
    """The batch with texts in place of references. Raises as `_require_plain`."""
    table = pa.Table.from_batches([batch])
    _require_plain(table, data_set)
    return table.cast(data_set.schema)


def _require_plain(table: pa.Table, data_set: DataSet) -> None:
    """Raise ValueError for a null, `_TooLongError` for a value too long. References are not followed."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        for chunk in column.chunks:
            is_list = arrow_types.is_list(chunk.type) or arrow_types.is_fixed_size_list(chunk.type)
            values = chunk.flatten() if is_list else chunk
            if (chunk.null_count or values.null_count) and name not in data_set.may_be_null:
                raise ValueError(f"a null in column {name}")
            texts = values.dictionary if arrow_types.is_dictionary(values.type) else values
            if arrow_types.is_string(texts.type) or arrow_types.is_binary(texts.type):
                longest = pc.max(pc.binary_length(texts)).as_py() or 0
                if longest > data_set.max_bytes:
                    raise _TooLongError(f"{longest:,} bytes in column {name}; at most {data_set.max_bytes:,}")


def _line(exc: BaseException) -> str:
    return str(exc).splitlines()[0][:500] if str(exc) else type(exc).__name__
