"""What an export is: Parquet and one JSON file, on any file system of pyarrow's. Knows no index and no store.

    ADDRESS/export.json                     spaces, metadata types, the shards' folder and rows; written last
    ADDRESS/data-*/visual/000000.parquet    pictures: part and vector
    ADDRESS/data-*/text/000000.parquet      chunks: part and vector
    ADDRESS/data-*/previews/000000.parquet  a picture's content hash and its preview
    ADDRESS/data-*/readings/000000.parquet  a picture's content hash and the text read in it
    ADDRESS/data-*/ledger/000000.parquet    what was ingested

Each export has a folder of its own, so that the one before stands until `export.json` names another. The
first format had the shards beside `export.json`, and is read.

Reading trusts nothing: names have forms that lead nowhere else, forms and sizes are checked before a row is
read, pages carry checksums. As in `sources.parquet`, what pages say against their own footer is not bounded.
"""

from __future__ import annotations

import itertools
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as arrow_types
from pyarrow import fs as arrow_fs
from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints, ValidationError

from pipelines.core.errors import BadExport, BadPart, StoreError, UsageError
from pipelines.core.previews import MAX_PREVIEW_BYTES
from pipelines.core.stores.records import MAX_TEXT_BYTES
from pipelines.ingest import ledger, rows
from pipelines.ingest.sources.files import is_remote, open_uri, strip_file_scheme

Name = Literal["visual", "text", "previews", "readings", "ledger"]
FORMAT: Final = 2
_CONTENTS, _COMING, _UNFINISHED = "export.json", "export.json.new", "export.unfinished"
_FOLDER: Final = "data-[0-9a-f]{32}"
_SHARD_BYTES: Final = 256 * 2**20
_GROUP_ROWS: Final = 1024
_MAX_GROUP_BYTES: Final = 512 * 2**20  # 1,024 rows with every field as long as a store takes it
_MAX_CONTENTS_BYTES: Final = 2**20
_BUFFER_BYTES: Final = 2**20
# What pyarrow raises where there is no such file, none that can be written, and for mutated ones.
_DAMAGE: Final = (pa.ArrowException, OSError, ValueError, LookupError, OverflowError, NotImplementedError)
_PART_FIELDS: Final = (
    "id", "kind", "document_id", "source", "tenant", "text", "content", "image_ids", "metadata",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataSet:
    """The form of a kind of shard. `batch_rows` are read at once; a text or blob has at most `max_bytes`."""

    name: Name
    schema: pa.Schema
    batch_rows: int = 512
    max_bytes: int = MAX_TEXT_BYTES


def parts(name: Literal["visual", "text"], dim: int) -> DataSet:
    fields = [rows.SCHEMA.field(field) for field in _PART_FIELDS]
    return DataSet(name, pa.schema([*fields, ("vector", pa.list_(pa.float32(), dim))]))


PREVIEWS: Final = DataSet(
    "previews", pa.schema([("content", pa.string()), ("jpeg", pa.binary())]), 16, MAX_PREVIEW_BYTES
)
READINGS: Final = DataSet("readings", pa.schema([("content", pa.string()), ("reading", pa.string())]))
LEDGER: Final = DataSet("ledger", ledger.SCHEMA)


class Shards(BaseModel):
    """The number of rows of each shard, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    visual: tuple[NonNegativeInt, ...]
    text: tuple[NonNegativeInt, ...]
    previews: tuple[NonNegativeInt, ...]
    readings: tuple[NonNegativeInt, ...]
    ledger: tuple[NonNegativeInt, ...]

    def of(self, name: Name) -> tuple[int, ...]:
        return getattr(self, name)  # type: ignore[no-any-return]

    def total(self, name: Name) -> int:
        return sum(self.of(name))


class Contents(BaseModel):
    """`export.json`. `folder` is that of the shards; the first format has none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1, 2] = FORMAT
    folder: Annotated[str, StringConstraints(pattern=f"^({_FOLDER})?$")] = ""
    mmrag: str
    created: str
    space: Mapping[str, Any]
    text_space: Mapping[str, Any]
    metadata_types: Mapping[str, Literal["bool", "number", "str"]]
    shards: Shards

    @property
    def names(self) -> set[str]:
        """What of an address belongs to it."""
        return {_CONTENTS, *([self.folder] if self.folder else Shards.model_fields)}


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

    def begin(self) -> str:
        """Make room for a new export. Returns the folder of its shards.

        A whole one that is there stays, what a cut one left is deleted, anything else raises UsageError.
        """
        with self._translated(""):
            if self._files.get_file_info(self._root).type is arrow_fs.FileType.File:
                raise UsageError(f"{self.address} is a file; name a directory")
            there = {info.base_name for info in self._list()}
        ours = all(map(_is_ours, there))
        standing = self.contents() if ours and _CONTENTS in there else None
        if there and not (ours and (standing or _UNFINISHED in there)):
            raise UsageError(f"{self.address} is not empty and no earlier export; name another directory")
        with self._translated(""):
            self._files.create_dir(self._root, recursive=True)
            self._write(_UNFINISHED, b"")
            self._clear(standing.names if standing else set())
        return f"data-{uuid.uuid4().hex}"

    def write(self, folder: str, data_set: DataSet, tables: Iterable[pa.Table]) -> tuple[int, ...]:
        """Write a data set in shards as the tables come. Returns the rows of each."""
        coming = iter(tables)
        written: list[int] = []
        for first in coming:
            if not written:
                with self._translated(data_set.name):
                    self._files.create_dir(self._path(f"{folder}/{data_set.name}"))
            file = _shard(folder, data_set.name, len(written))
            written.append(self._write_shard(file, data_set.schema, itertools.chain([first], coming)))
        return tuple(written)

    def end(self, contents: Contents) -> None:
        """From here on it is the export at this address. The one before is deleted."""
        with self._translated(_CONTENTS):
            self._swap(contents.model_dump_json(indent=1).encode())
        with self._translated(""):
            self._clear(contents.names)
            self._files.delete_file(self._path(_UNFINISHED))

    def contents(self) -> Contents:
        """Raises UsageError where there is no whole export, or one of another format."""
        with self._translated(_CONTENTS):
            info = self._files.get_file_info(self._path(_CONTENTS))
            if info.type is not arrow_fs.FileType.File:
                raise UsageError(
                    f"{self.address} holds no whole export: no {_CONTENTS}, which is written last"
                )
            with self._files.open_input_stream(self._path(_CONTENTS)) as stream:
                body = stream.read(_MAX_CONTENTS_BYTES + 1)
        if len(body) > _MAX_CONTENTS_BYTES:
            raise UsageError(f"{self.address}/{_CONTENTS} has more than {_MAX_CONTENTS_BYTES:,} bytes")
        try:
            return Contents.model_validate_json(body)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise UsageError(
                f"{self.address}/{_CONTENTS}: {where}: {first['msg']}; "
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
        except (BadPart, StoreError, RecursionError, *_DAMAGE) as exc:
            raise BadExport(f"{self.address}/{file}: is damaged or cut short ({_line(exc)})") from exc

    @contextmanager
    def _translated(self, file: str) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, NotImplementedError) as exc:
            raise BadExport(f"{self.address}/{file}: {_line(exc)}") from exc

    def _write_shard(self, file: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
        num_rows = size = 0
        texts = [field.name for field in schema if arrow_types.is_string(field.type)]
        options = {"compression": "zstd", "use_dictionary": texts, "write_page_checksum": True}
        with (
            self._translated(file),
            pq.ParquetWriter(self._path(file), schema, filesystem=self._files, **options) as writer,
        ):
            for table in tables:
                if nulls := [n for n in table.column_names if table[n].null_count]:
                    raise BadExport(
                        f"{self.address}/{file}: a null in column {nulls[0]}, which no import takes"
                    )
                writer.write_table(table, row_group_size=_GROUP_ROWS)
                num_rows, size = num_rows + len(table), size + table.nbytes
                if size >= _SHARD_BYTES:
                    break
        return num_rows

    def _swap(self, body: bytes) -> None:
        """Write `export.json` at once: an object store shows a file when it is whole, a disk by a move."""
        if not isinstance(self._files, arrow_fs.LocalFileSystem):
            self._write(_CONTENTS, body)
            return
        self._write(_COMING, body)
        self._files.move(self._path(_COMING), self._path(_CONTENTS))

    def _clear(self, stays: set[str]) -> None:
        """Delete what exports wrote here, but the mark that one goes on."""
        for info in self._list():
            if not _is_ours(info.base_name) or info.base_name in stays | {_UNFINISHED}:
                continue
            is_folder = info.type is arrow_fs.FileType.Directory
            delete = self._files.delete_dir if is_folder else self._files.delete_file
            delete(self._path(info.base_name))

    def _write(self, file: str, body: bytes) -> None:
        with self._files.open_output_stream(self._path(file)) as stream:
            stream.write(body)

    def _list(self) -> list[Any]:
        return self._files.get_file_info(arrow_fs.FileSelector(self._root or "/", allow_not_found=True))  # type: ignore[no-any-return]

    def _path(self, file: str) -> str:
        return f"{self._root}/{file}" if file else self._root


def _is_ours(name: str) -> bool:
    known = {*Shards.model_fields, _CONTENTS, _COMING, _UNFINISHED}
    return name in known or re.fullmatch(_FOLDER, name) is not None


def _shard(folder: str, name: Name, number: int) -> str:
    file = f"{name}/{number:06d}.parquet"
    return f"{folder}/{file}" if folder else file


def _open_shard(stream: Any, data_set: DataSet, expected: int) -> pq.ParquetFile:
    """Raises ValueError unless it has this schema, this many rows, and row groups within bounds."""
    footer = pq.read_metadata(stream)
    if footer.num_rows != expected:
        raise ValueError(f"{footer.num_rows:,} rows, but {_CONTENTS} says {expected:,}")
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


def _plain(batch: pa.RecordBatch, data_set: DataSet) -> pa.Table:
    """The batch with texts in place of references. Raises ValueError for a null and for a value too long."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        is_list = arrow_types.is_list(column.type) or arrow_types.is_fixed_size_list(column.type)
        values = column.flatten() if is_list else column
        if column.null_count or values.null_count:
            raise ValueError(f"a null in column {name}")
        if arrow_types.is_dictionary(values.type):
            longest = pc.max(pc.binary_length(values.dictionary)).as_py() or 0
            if longest > data_set.max_bytes:
                raise ValueError(f"{longest:,} bytes in column {name}; at most {data_set.max_bytes:,}")
    return pa.Table.from_batches([batch]).cast(data_set.schema)


def _line(exc: BaseException) -> str:
    return str(exc).splitlines()[0][:500] if str(exc) else type(exc).__name__
