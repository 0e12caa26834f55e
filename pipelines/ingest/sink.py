"""Write finished rows to the stores, and afterwards to the ledger. Knows no Ray.

Upserts go first, then the acknowledgement of each row, then (at the end of the run) the removal of
stale parts, the dead letters, and the ledger. Whatever is cut short is done again by the next run,
and every step may be repeated. Until then its documents stand in the ledger as unfinished, so that
what was written of them is found again, to be overwritten or deleted.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.core import files
from pipelines.core.errors import PartsRefused
from pipelines.core.index import Index
from pipelines.core.job_metrics import Record, timed, unrecorded
from pipelines.core.patience import patiently
from pipelines.core.types import Part, store_key
from pipelines.ingest import acknowledged, lost, near_duplicates
from pipelines.ingest import ledger as ledgers
from pipelines.ingest.deletion import delete_from_stores, delete_replaced, delete_stale, flush
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.listed import ITEMS
from pipelines.ingest.metrics import UPSERT_SECONDS, count_rows
from pipelines.ingest.rows import DOCUMENT, refuse, row_part, table
from pipelines.ingest.run import Run, unfinished_runs
from pipelines.ingest.sources import UNAVAILABLE, Rejected

_FROM_DOCUMENT = ("document_key", "document_id", "tenant", "source", "scope", "inputs", "stamp", "digest")
_PLANNED = ["document_id", "tenant", "address", "scope", "inputs"]

DEAD_LETTERS = pa.schema([(name, pa.string()) for name in ("document_id", "source", "stage", "reason")])


def recover(index: Index, patience_s: float = 0.0, replaced: Ledger | None = None) -> Ledger:
    """The ledger, with what runs that were cut short had finished. Only for the holder of the write lock.
    `replaced`: that of the index that a rebuild replaces. Raises StoreUnavailable where there were some and a
    store does not answer for `patience_s`."""
    ledger = Ledger.load(index.home).fitted()
    for dead in unfinished_runs(index.home):
        ledger, _ = finish(index, dead, ledger, patience_s=patience_s, replaced=replaced)
    shutil.rmtree(index.home / "runs", ignore_errors=True)  # runs that had hardly begun, or nearly ended
    return ledger


def write_rows(
    rows: pa.Table, index: Index, run: Run, record: Record = unrecorded, patience_s: float = 0.0
) -> int:
    """Upsert the good rows of a batch into the stores, then acknowledge all. Returns their number.

    A row that a store refuses for good is acknowledged as refused.
    Raises StoreUnavailable where a store does not answer for `patience_s`, and MmragError where the run has
    ended.
    """
    start = time.perf_counter()
    good = rows.filter(pc.is_null(rows["reason"]))

    def write() -> Mapping[str, str]:
        return _upsert(good, index, run, record)

    rows = _with_refusals(rows, patiently(write, patience_s))
    acknowledged.acknowledge(rows, run, (time.perf_counter() - start) / max(1, len(rows)))
    count_rows(rows, record)
    return len(rows)


def _upsert(rows: pa.Table, index: Index, run: Run, record: Record) -> Mapping[str, str]:
    """Write the rows, to each store only while the run goes on.

    Returns why chunks were refused for good, by key: those are in no store, or there as an earlier version,
    which is stale.
    """
    pictures, picture_vectors = _records(rows, "image")
    chunks, chunk_vectors = _records(rows, "chunk")
    refused: Mapping[str, str] = {}
    run.require_open()
    if pictures:
        with timed(record, UPSERT_SECONDS, store="visual"):
            index.visual().upsert(pictures, picture_vectors)
    if chunks:
        run.require_open()
        with timed(record, UPSERT_SECONDS, store="lexical"):
            refused = _upsert_lexical(chunks, index)
        run.require_open()
        kept = [n for n, chunk in enumerate(chunks) if chunk.key not in refused]
        with timed(record, UPSERT_SECONDS, store="text"):
            index.text().upsert([chunks[n] for n in kept], chunk_vectors[kept])
    return refused


def _upsert_lexical(chunks: Sequence[Part], index: Index) -> Mapping[str, str]:
    refused: Mapping[str, str] = {}
    try:
        index.lexical().upsert(chunks)
    except PartsRefused as exc:
        refused = exc.reasons
    index.lexical().commit()
    return refused


def _with_refusals(rows: pa.Table, reasons: Mapping[str, str]) -> pa.Table:
    if not reasons:
        return rows
    told = rows.to_pylist()
    return table(refuse(row, "store", reasons[row["key"]]) if row["key"] in reasons else row for row in told)


def _records(rows: pa.Table, kind: str) -> tuple[list[Part], NDArray[np.float32]]:
    of_kind = rows.filter(pc.equal(rows["kind"], kind))
    vectors = [np.frombuffer(blob.as_buffer(), dtype=np.float32) for blob in of_kind["vector"]]
    parts = [row_part(row) for row in of_kind.drop_columns(["vector", "pixels"]).to_pylist()]
    return parts, np.stack(vectors) if vectors else np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run did. `kept` tells what to do about documents that would have lost pictures by accident."""

    documents: int
    images: int
    chunks: int
    rejected: int
    unfinished: int
    encoded_images: int
    encoded_chunks: int
    stage_s: dict[str, float]
    kept: str = ""


def finish(
    index: Index,
    run: Run,
    known: Ledger,
    refused: Sequence[Rejected] = (),
    pruned: Sequence[str] = (),
    patience_s: float = 0.0,
    seen: Mapping[str, tuple[str, str]] | None = None,
    max_lost_fraction: float = 0.0,
    replaced: Ledger | None = None,
) -> tuple[Ledger, Finished]:
    """Close a run: flush, delete stale parts, write dead letters, then the ledger. Returns the new one.
    Raises StoreUnavailable where a store does not answer for `patience_s`.

    A document of which some parts were not acknowledged stands there as unfinished; those whose keys are
    `pruned` are deleted everywhere, and others were `seen` with another (scope, stamp). What is kept of
    pictures goes with the last part that has them. Documents that would lose pictures by accident (`lost`)
    stay as they are, unfinished; in a rebuild, what they had is in the ledger that is `replaced`.
    """
    letters = [(r.document_id, r.source, r.stage, r.reason) for r in refused]
    done, keys, pictures, did = [ledgers.NO_ROWS], [], [], _Did()
    if run.acknowledged():
        flush(index, patience_s)
    kept = lost.kept(run, known if replaced is None else replaced, max_lost_fraction)
    for acks in acknowledged.shares(run):
        documents = _documents(acks, run, kept.keys)
        delete_stale(index, acks, known, documents, patience_s)
        bad = acks.filter(pc.is_valid(acks["reason"])).select(DEAD_LETTERS.names)
        letters += [tuple(row.values()) for row in bad.to_pylist()]
        keys.append(pc.unique(acks["document_key"]))
        pictures.append(near_duplicates.pictures_of(acks))
        done.append(documents)
        did.count(acks)
    if letters:
        _write_dead_letters(index.directory / "rejected", run, letters)
    known = known.unfinished(pruned)
    delete_from_stores(index, pruned, patience_s)
    rows = pa.concat_tables(done)
    unfinished = _unfinished(run, known, rows["document_key"])
    updated = known.changed(pa.concat_tables([rows, unfinished]), pruned, seen)
    if pictures:
        redone, now = pa.chunked_array(keys, pa.string()), pa.concat_tables(pictures)
        delete_replaced(index, redone, now, patience_s)
        near_duplicates.remember(run.root, now, rows["document_key"], updated)
    run.end()  # until then all of this is done again
    return updated, _summary(rows, did, len(unfinished), len(letters), kept.told)


def _documents(acks: pa.Table, run: Run, kept: Collection[str]) -> pa.Table:
    """Ledger rows of the documents whose every part was acknowledged, and was not unavailable; none of those
    that are `kept` as they were."""
    is_document = pc.equal(acks["kind"], DOCUMENT)
    parts = acks.filter(pc.invert(is_document))
    refused = pc.is_valid(parts["reason"])
    flags = {
        "images": pc.and_(pc.equal(parts["kind"], "image"), pc.invert(refused)),
        "chunks": pc.and_(pc.equal(parts["kind"], "chunk"), pc.invert(refused)),
        "rejected": refused,
        UNAVAILABLE: pc.fill_null(pc.equal(parts["stage"], UNAVAILABLE), False),
    }
    counted = parts.select(["document_key"])
    for name, flag in flags.items():
        counted = counted.append_column(name, pc.cast(flag, pa.int32()))
    sums = counted.group_by("document_key").aggregate(
        [(name, "sum") for name in flags] + [("document_key", "count")]
    )
    names = [*_FROM_DOCUMENT, "num_parts"]
    joined = acks.filter(is_document).select(names).to_pylist()
    by_key = {row["document_key"]: row for row in sums.to_pylist()}
    rows: list[dict[str, Any]] = []
    for document in joined:
        count = by_key.get(document["document_key"])
        if count is None or count["document_key_count"] != document["num_parts"]:
            continue
        if count[f"{UNAVAILABLE}_sum"] or document["document_key"] in kept:
            continue
        good, rejected = count["images_sum"] + count["chunks_sum"], count["rejected_sum"]
        status = "complete" if not rejected else "partial" if good else "rejected"
        rows.append(
            {name: document[name] for name in _FROM_DOCUMENT}
            | {name: count[f"{name}_sum"] for name in ("images", "chunks", "rejected")}
            | {"fingerprint": run.fingerprint, "status": status, "run": run.name}
        )
    return pa.Table.from_pylist(rows, schema=ledgers.SCHEMA)


def _unfinished(run: Run, known: Ledger, done: pa.ChunkedArray) -> pa.Table:
    """Ledger rows of the planned documents that were not done. Their digest fits nothing."""
    shares = (_unfinished_rows(items, run, known) for items in _planned(run, done))
    return pa.concat_tables([ledgers.NO_ROWS, *shares])


def _planned(run: Run, done: pa.ChunkedArray) -> Iterator[pa.Table]:
    """The planned items of other documents, with the keys of these, of some `AT_ONCE` at a time."""
    for items in acknowledged.at_once(acknowledged.undamaged(run.items, ITEMS, _PLANNED)):
        named = zip(items["tenant"].to_pylist(), items["document_id"].to_pylist(), strict=True)
        keys = pa.array([store_key(tenant, document_id) for tenant, document_id in named], pa.string())
        yield items.append_column("document_key", keys).filter(pc.invert(pc.is_in(keys, done)))


def _unfinished_rows(items: pa.Table, run: Run, known: Ledger) -> pa.Table:
    """Of documents that are known what was last known, but of this run; of others what was planned."""
    before = known.rows_of(items["document_key"].to_pylist())
    place = pc.index_in(before["document_key"], items["document_key"].combine_chunks())
    new = items.filter(pc.invert(pc.is_in(items["document_key"], before["document_key"])))
    new = new.append_column("source", new["address"])
    for name in ("images", "chunks", "rejected"):
        new = new.append_column(name, pa.repeat(pa.scalar(0, pa.int32()), len(new)))
    scopes = items["scope"].take(place)
    before = before.set_column(before.column_names.index("scope"), "scope", scopes)
    same = ledgers.UNFINISHED | {"fingerprint": run.fingerprint, "run": run.name}
    names = [name for name in ledgers.SCHEMA.names if name not in same]
    rows = pa.concat_tables([table.select(names) for table in (before, new)])
    for name, value in same.items():
        rows = rows.append_column(name, pa.repeat(value, len(rows)))
    return rows.select(ledgers.SCHEMA.names).cast(ledgers.SCHEMA)


def _write_dead_letters(folder: Path, run: Run, letters: Sequence[tuple[str, ...]]) -> None:
    folder.mkdir(exist_ok=True)
    columns = [pa.array(column, pa.string()) for column in zip(*letters, strict=True)]
    with files.replaced(folder / f"{run.name}.parquet", durable=True) as beside:
        pq.write_table(pa.table(columns, schema=DEAD_LETTERS), beside)


@dataclass(slots=True)
class _Did:
    """What was encoded, by kind, and how long each stage took, over all acknowledgements."""

    encoded: Counter[str] = field(default_factory=Counter)
    stage_s: dict[str, float] = field(default_factory=dict)

    def count(self, acks: pa.Table) -> None:
        encoded = acks.filter(pc.fill_null(acks["encoded"], False))
        for entry in pc.value_counts(encoded["kind"]).to_pylist():
            self.encoded[entry["values"]] += entry["counts"]
        for stage in ("parse", "load", "encode", "write"):
            seconds = pc.sum(acks[f"{stage}_s"]).as_py() or 0.0
            self.stage_s[stage] = self.stage_s.get(stage, 0.0) + seconds


def _summary(done: pa.Table, did: _Did, unfinished: int, rejected: int, kept: str) -> Finished:
    return Finished(
        documents=len(done),
        images=pc.sum(done["images"]).as_py() or 0,
        chunks=pc.sum(done["chunks"]).as_py() or 0,
        rejected=rejected,
        unfinished=unfinished,
        encoded_images=did.encoded["image"],
        encoded_chunks=did.encoded["chunk"],
        stage_s=did.stage_s,
        kept=kept,
    )
