"""What has been ingested: one row a document, in Parquet files by a hash of its key. Knows no store, no Ray.

    HOME/ledger/buckets.json           the file of each bucket; replaced last, and at once
    HOME/ledger/00007-1f0c9a.parquet   the rows of a bucket; never changed, but replaced by another file

One bucket at a time is in memory. What a change replaces stays until the next one, for those who read
meanwhile; who reads for longer meets a bucket as it stands by then. An earlier version had all in
HOME/ledger.parquet, which is read as the one bucket that there is.

The ledger is written last. A document that is not in it, or stands there with another digest or
fingerprint, is ingested again, which is safe because every write is an upsert by a fixed key. An
unfinished one, whose run or deletion was cut short, has no digest.
"""

from __future__ import annotations

import json
import shutil
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.core.errors import MmragError
from pipelines.core.files import replace_file, sync

T = TypeVar("T")

SCHEMA = pa.schema(
    [
        ("document_key", pa.string()),
        ("document_id", pa.string()),
        ("tenant", pa.string()),
        ("source", pa.string()),
        ("scope", pa.string()),  # the SOURCE it was last listed in; null or empty: not known
        ("inputs", pa.list_(pa.string())),
        ("stamp", pa.string()),
        ("digest", pa.string()),
        ("fingerprint", pa.string()),
        ("images", pa.int32()),
        ("chunks", pa.int32()),
        ("rejected", pa.int32()),
        ("status", pa.string()),  # complete | partial | rejected | unfinished
        ("run", pa.string()),
    ]
)
NO_ROWS: Final = SCHEMA.empty_table()
FEW_DOCUMENTS: Final = 50_000
"""A bucket of so many is quickly read and written whole."""
BUCKETS: Final = (1, 64, 512)
"""How many there may be: each a multiple of the one before, and no more than files may be open at once."""
UNFINISHED: Final = {"stamp": "", "digest": "", "status": "unfinished"}
"""What stands in the row of a document of which the stores may hold a part only: it fits no file."""
_FOLDER, _FILES, _SINGLE = "ledger", "buckets.json", "ledger.parquet"


@dataclass(frozen=True, slots=True)
class Ledger:
    """The documents of an index as they stand on disk: by bucket, its file below `home`, or None."""

    home: Path
    files: tuple[str | None, ...] = (None,)

    @classmethod
    def load(cls, home: Path) -> Ledger:
        """That in the home of a generation; an empty one where there is none."""
        try:
            return cls(home, tuple(json.loads((home / _FOLDER / _FILES).read_text())))
        except FileNotFoundError:
            return cls(home, (_SINGLE,) if (home / _SINGLE).exists() else (None,))

    @staticmethod
    def drop(home: Path) -> None:
        (home / _FOLDER / _FILES).unlink(missing_ok=True)  # first: it names the others
        (home / _SINGLE).unlink(missing_ok=True)
        shutil.rmtree(home / _FOLDER, ignore_errors=True)

    @property
    def buckets(self) -> int:
        return len(self.files)

    def bucket(self, number: int, of: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """The rows of a bucket, of as many as there are or of a multiple of that (`of`)."""
        columns = SCHEMA.names if columns is None else columns
        read = partial(pq.read_table, schema=SCHEMA, columns=columns)
        rows = pa.concat_tables([NO_ROWS.select(columns), *self._read(number % self.buckets, read)])
        if of is None or of == self.buckets:
            return rows
        return rows.filter(pa.array(buckets_of(rows["document_key"], of) == number))

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All rows, a bucket at a time."""
        return (self.bucket(number, columns=columns) for number in range(self.buckets))

    def __len__(self) -> int:
        footers = (self._read(number, pq.read_metadata) for number in range(self.buckets))
        return sum(footer.num_rows for bucket in footers for footer in bucket)

    def rows_of(self, document_keys: Iterable[str], columns: list[str] | None = None) -> pa.Table:
        """The rows of those of these documents that are known, in any order."""
        found = [NO_ROWS.select(columns or SCHEMA.names)]
        for number, keys in _by_bucket(document_keys, self.buckets).items():
            rows = self.bucket(number, columns=columns)
            found.append(rows.filter(pc.is_in(rows["document_key"], pa.array(keys))))
        return pa.concat_tables(found)

    def held(self, document_keys: Iterable[str]) -> set[str]:
        """The keys of those of these documents that have a part in the index."""
        rows = self.rows_of(document_keys, ["document_key", "images", "chunks"])
        there = pc.greater(pc.add(rows["images"], rows["chunks"]), 0)
        return set(rows["document_key"].filter(there).to_pylist())

    def get(self, document_key: str) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = self.rows_of([document_key]).to_pylist()
        return rows[0] if rows else None

    def with_documents_of(self, document_ids: Iterable[str], tenant: str | None = None) -> pa.Table:
        """The rows of these document ids (of one tenant, or of all)."""
        ids = pa.array(list(document_ids), pa.string())
        rows = pa.concat_tables(t.filter(pc.is_in(t["document_id"], ids)) for t in self.tables())
        return rows if tenant is None else rows.filter(pc.equal(rows["tenant"], tenant))

    def tenants(self) -> set[str]:
        """Whose documents have a part in the index."""
        found = set[str]()
        for rows in self.tables(["tenant", "images", "chunks"]):
            there = pc.greater(pc.add(rows["images"], rows["chunks"]), 0)
            found.update(pc.unique(rows["tenant"].filter(there)).to_pylist())
        return found

    def documents_by_scope(self) -> Counter[str]:
        """How many documents were last listed in each source, of those of which it is known."""
        found = Counter[str]()
        for table in self.tables(["scope"]):
            for entry in pc.value_counts(table["scope"]).to_pylist():
                found[entry["values"] or ""] += entry["counts"]
        del found[""]
        return found

    def scopes(self) -> set[str]:
        """The sources that documents were last listed in, those that are known."""
        return set(self.documents_by_scope())

    def totals(self) -> dict[str, Any]:
        """Sums over all documents, and how many documents have each status."""
        sums, statuses = {"documents": 0, "images": 0, "chunks": 0, "rejected": 0}, Counter[str]()
        for rows in self.tables(["images", "chunks", "rejected", "status"]):
            sums["documents"] += len(rows)
            for name in rows.column_names[:-1]:
                sums[name] += pc.sum(rows[name]).as_py() or 0
            for entry in pc.value_counts(rows["status"]).to_pylist():
                statuses[entry["values"]] += entry["counts"]
        return {**sums, "status": dict(statuses)}

    def has_unfinished(self) -> bool:
        return UNFINISHED["status"] in self.totals()["status"]

    def parts(self, *, finished: bool = False) -> dict[str, int]:
        """How many parts each store holds when it agrees; of all documents, or of `finished` ones alone."""
        images = chunks = 0
        for rows in self.tables(["images", "chunks", "status"]):
            if finished:
                rows = rows.filter(pc.not_equal(rows["status"], UNFINISHED["status"]))
            images += pc.sum(rows["images"]).as_py() or 0
            chunks += pc.sum(rows["chunks"]).as_py() or 0
        return {"visual": images, "text": chunks, "lexical": chunks}

    def changed(
        self,
        rows: pa.Table = NO_ROWS,
        gone: Collection[str] = (),
        seen: Mapping[str, tuple[str, str]] | None = None,
    ) -> Ledger:
        """The ledger after a change, which is on disk then: a reader or a crash sees the old or the new one.

        `rows` replace the rows of the same documents. Then documents by key: those that are `gone` are
        dropped, and others were `seen` with another (scope, stamp). No bucket without one of them is written,
        unless there are too many documents for so few buckets.
        """
        rows, seen = _without(rows.select(SCHEMA.names), gone), seen or {}
        keys = rows["document_key"].to_pylist()
        new = len(keys) - len(self.rows_of(keys, ["document_key"]))
        count = max(self.buckets, _fitting(len(self) + new))
        replaced, noted = _by_bucket({*keys, *gone}, self.buckets), _by_bucket(seen, self.buckets)
        if count == self.buckets and not replaced and not noted:
            return self
        self._make_room()
        row_buckets = buckets_of(keys, count)
        files: list[str | None] = [None] * count
        for number, file in enumerate(self.files):
            if count == self.buckets and number not in replaced and number not in noted:
                files[number] = file
                continue
            kept = _without(self.bucket(number), replaced.get(number, ()))
            kept = _noted(kept, {key: seen[key] for key in noted.get(number, ())})
            kept_buckets = buckets_of(kept["document_key"], count)
            for part in range(number, count, self.buckets):
                both = kept.filter(pa.array(kept_buckets == part)), rows.filter(pa.array(row_buckets == part))
                files[part] = self._write(part, pa.concat_tables(both))
        return self._commit(files)

    def unfinished(self, document_keys: Iterable[str]) -> Ledger:
        """The ledger, on disk too, in which those of these documents that are known are unfinished: to be
        made before the first of their parts is deleted, which may be cut short."""
        return self.changed(_with_values(self.rows_of(document_keys), UNFINISHED))

    def fitted(self) -> Ledger:
        """The ledger, on disk too, in as many buckets as it needs; one of an earlier version has but one."""
        return self if self.buckets >= _fitting(len(self)) else self.changed()

    def _read(self, number: int, read: Callable[[Path], T]) -> list[T]:
        """What is read of a bucket's file, if it has one. Where that was replaced and deleted meanwhile, of
        those which have its rows now: there may be more buckets, by a multiple.

        Raises MmragError where it is missing for another reason.
        """
        file = self.files[number]
        if file is None:
            return []
        try:
            return [read(self.home / file)]
        except FileNotFoundError as exc:
            now = Ledger.load(self.home)
            if file in now.files or not (self.home / _FOLDER / _FILES).exists():
                raise MmragError(
                    f"{self.home / file} is missing: if the index was rebuilt a moment ago, run the same "
                    "command again; else restore it from an export, or make it anew with --rebuild"
                ) from exc
        return [one for n in range(number, now.buckets, self.buckets) for one in now._read(n, read)]

    def _make_room(self) -> None:
        """Delete what the change before has replaced, or one that was cut short has left."""
        folder = self.home / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name != _FILES and f"{_FOLDER}/{path.name}" not in self.files:
                path.unlink()

    def _write(self, number: int, rows: pa.Table) -> str | None:
        if not len(rows):
            return None
        file = f"{_FOLDER}/{number:05d}-{uuid.uuid4().hex}.parquet"
        pq.write_table(rows, self.home / file)
        sync(self.home / file)
        return file

    def _commit(self, files: Sequence[str | None]) -> Ledger:
        replace_file(self.home / _FOLDER / _FILES, json.dumps(files, indent=1), durable=True)
        (self.home / _SINGLE).unlink(missing_ok=True)
        return replace(self, files=tuple(files))


def buckets_of(document_keys: Iterable[Any] | pa.ChunkedArray, count: int) -> NDArray[np.int64]:
    """The bucket of each of these documents, of so many."""
    keys = document_keys.to_pylist() if isinstance(document_keys, pa.ChunkedArray) else document_keys
    return np.fromiter((zlib.crc32(key.encode()) % count for key in keys), np.int64)


def joined(one: Ledger, other: Ledger, columns: list[str]) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of both ledgers, a bucket at a time: equal keys are in equal buckets."""
    count = max(one.buckets, other.buckets)
    for number in range(count):
        yield one.bucket(number, count, columns), other.bucket(number, count, columns)


def _fitting(documents: int) -> int:
    """How many buckets so many documents need."""
    return next((count for count in BUCKETS if documents <= count * FEW_DOCUMENTS), BUCKETS[-1])


def _by_bucket(document_keys: Iterable[str], count: int) -> dict[int, list[str]]:
    found = defaultdict[int, list[str]](list)
    for key in document_keys:
        found[zlib.crc32(key.encode()) % count].append(key)
    return dict(found)


def _without(rows: pa.Table, document_keys: Collection[str]) -> pa.Table:
    keys = pa.array(list(document_keys), pa.string())
    return rows.filter(pc.invert(pc.is_in(rows["document_key"], keys)))


def _with_values(rows: pa.Table, values: Mapping[str, str]) -> pa.Table:
    for name, value in values.items():
        column = pa.repeat(pa.scalar(value, pa.string()), len(rows))
        rows = rows.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), column)
    return rows


def _noted(rows: pa.Table, seen: Mapping[str, tuple[str, str]]) -> pa.Table:
    """The rows with the (scope, stamp) that documents were seen with."""
    if not seen:
        return rows
    for n, name in enumerate(("scope", "stamp")):
        known = zip(rows["document_key"].to_pylist(), rows[name].to_pylist(), strict=True)
        values = pa.array([seen[key][n] if key in seen else value for key, value in known], pa.string())
        rows = rows.set_column(SCHEMA.get_field_index(name), SCHEMA.field(name), values)
    return rows
