"""What a listing found, in the ledger's buckets: in memory, or where it is much, in files. Reads no source.

A file is a stream of Arrow batches, written as the items come, so that their order within a bucket is kept.
Out of the buckets they come in the order of the listing again (`in_order`): neighbours lie in one row group.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pipelines.core.files import disk_errors
from pipelines.core.types import store_key
from pipelines.ingest.ledger import BUCKETS, FEW_DOCUMENTS, buckets_of
from pipelines.ingest.sources import Item

ITEMS: Final = pa.schema(
    [
        ("form", pa.string()),
        ("document_id", pa.string()),
        ("address", pa.string()),
        ("scope", pa.string()),
        ("root", pa.string()),
        ("payload", pa.binary()),
        ("inputs", pa.list_(pa.string())),
        ("tenant", pa.string()),
        ("stamps", pa.list_(pa.string())),
        ("place", pa.int64()),  # in the listing
    ]
)
LISTED: Final = pa.schema([*ITEMS, ("document_key", pa.string())])
_ROWS_AT_ONCE: Final = 1000
_ROWS_MERGED: Final = 100  # of each bucket
_HELD_BYTES: Final = 64 * 2**20  # of payload
_COMPRESSED: Final = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True)
class Listed:
    """Items, with the keys of their documents and their places in the listing, by bucket. `held` is None
    where they are in files."""

    buckets: int
    folder: Path
    held: Mapping[int, pa.Table] | None

    def batches(self, bucket: int) -> Iterator[pa.Table]:
        """A bucket's items in the order in which they were listed."""
        if self.held is not None:
            held = self.held[bucket].to_batches(_ROWS_AT_ONCE) if bucket in self.held else ()
            yield from (pa.Table.from_batches([batch]) for batch in held)
            return
        yield from _tables(_file(self.folder, bucket))

    def keys(self, bucket: int) -> pa.ChunkedArray:
        chunks = [chunk for items in self.batches(bucket) for chunk in items["document_key"].chunks]
        return pa.chunked_array(chunks, pa.string())


def spread(items: Iterable[Item], buckets: int, folder: Path) -> Listed:
    """All of them, in as many buckets as the ledger has; in more where they are many and those are few.
    Raises MmragError where the disk of `folder` takes no more."""
    waiting: list[Item] = []
    done = size = 0
    files: _Files | None = None
    with ExitStack() as stack:
        for item in items:
            waiting.append(item)
            size += len(item.payload)
            if len(waiting) >= FEW_DOCUMENTS or size >= _HELD_BYTES:
                files = files or stack.enter_context(_Files(folder, max(buckets, BUCKETS[1])))
                files.write(_table(waiting, done))
                done += len(waiting)
                waiting, size = [], 0
        if files is None:
            return Listed(buckets, folder, dict(_split(_table(waiting, 0), buckets)))
        files.write(_table(waiting, done))
    return Listed(files.buckets, folder, None)


def write_stream(tables: Iterable[pa.Table], file: Path) -> None:
    """Tables of LISTED, as `in_order` reads them. Raises MmragError where the disk takes no more."""
    with disk_errors(file), pa.ipc.new_stream(str(file), LISTED, options=_COMPRESSED) as stream:
        for table in tables:
            stream.write_table(table.combine_chunks())


def in_order(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """The rows of all these files, each of which has its own in the order of the listing, in that order."""
    return heapq.merge(*map(_rows, files), key=itemgetter("place"))


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for table in _tables(file):
        for batch in table.to_batches(_ROWS_MERGED):
            yield from batch.to_pylist()


def _tables(file: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
        yield from (pa.Table.from_batches([batch]) for batch in stream)


class _Files(ExitStack):
    """The open files of all buckets."""

    def __init__(self, folder: Path, buckets: int) -> None:
        super().__init__()
        self.buckets, self._folder = buckets, folder
        with disk_errors(folder):
            self._streams = [
                self.enter_context(pa.ipc.new_stream(str(_file(folder, n)), LISTED, options=_COMPRESSED))
                for n in range(buckets)
            ]

    def write(self, items: pa.Table) -> None:
        with disk_errors(self._folder):
            for bucket, rows in _split(items, self.buckets):
                self._streams[bucket].write_table(rows.combine_chunks())

    def __exit__(self, *raised: Any) -> bool | None:
        with disk_errors(self._folder):  # closing writes, too
            return super().__exit__(*raised)


def _file(folder: Path, bucket: int) -> Path:
    return folder / f"{bucket:05d}.arrows"


def _table(items: Sequence[Item], first: int) -> pa.Table:
    """Of items whose places in the listing begin at `first`."""
    fields = [name for name in ITEMS.names if name != "place"]
    columns: list[Sequence[Any]] = [[getattr(item, name) for item in items] for name in fields]
    columns.append(range(first, first + len(items)))
    columns.append([store_key(item.tenant, item.document_id) for item in items])
    arrays = [pa.array(column, field.type) for column, field in zip(columns, LISTED, strict=True)]
    return pa.table(arrays, schema=LISTED)


def _split(items: pa.Table, buckets: int) -> Iterator[tuple[int, pa.Table]]:
    which = buckets_of(items["document_key"], buckets)
    for bucket in range(buckets):
        rows = items.filter(pa.array(which == bucket)) if buckets > 1 else items
        if len(rows):
            yield bucket, rows
