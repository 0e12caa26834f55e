"""The acknowledgements of a run: workers write them, and its end reads them. Knows no store and no ledger."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core.files import replaced
from pipelines.ingest import ledger as ledgers
from pipelines.ingest.ledger import buckets_of
from pipelines.ingest.rows import SCHEMA
from pipelines.ingest.run import Run

_LOG = logging.getLogger(__name__)

_COLUMNS: Final = (
    "document_key", "key", "kind", "id", "document_id", "tenant", "source", "content", "perceptual", "scope",
    "inputs", "stamp", "digest", "num_parts", "stage", "reason", "encoded", "parse_s", "load_s", "encode_s",
)  # fmt: skip
_ACKS: Final = pa.schema([*(SCHEMA.field(name) for name in _COLUMNS), ("write_s", pa.float64())])
AT_ONCE = 50_000
"""A run's end takes memory by this, its ledger rows and the hashes of its pictures."""


def acknowledge(rows: pa.Table, run: Run, write_s: float) -> None:
    """Note on the disk that the stores have these rows, or that they are refused, after `write_s` each."""
    acks = rows.select(_COLUMNS).append_column("write_s", pa.array(np.full(len(rows), write_s)))
    with replaced(run.acks / f"{len(rows)}-{uuid.uuid4().hex}.parquet", durable=True) as beside:
        pq.write_table(acks, beside)


def rows_where(run: Run, keep: pc.Expression, columns: list[str]) -> pa.Table:
    """Of all acknowledgements these columns of those that `keep` selects by them."""
    found = (acks.filter(keep) for acks in undamaged(run.acks, _ACKS, columns))
    return pa.concat_tables([_ACKS.empty_table().select(columns), *found])


def shares(run: Run) -> Iterator[pa.Table]:
    """All acknowledgements, those of a document together, some `AT_ONCE` at a time."""
    count = min(-(-run.acknowledged() // AT_ONCE), ledgers.BUCKETS[-1])
    if count == 1:
        yield _distinct(pa.concat_tables([_ACKS.empty_table(), *undamaged(run.acks, _ACKS)]))
    if count < 2:
        return
    folder = run.directory / "shares"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut short here
    folder.mkdir()
    files = [folder / f"{number}.parquet" for number in range(count)]
    with ExitStack() as stack:
        writers = [stack.enter_context(pq.ParquetWriter(file, _ACKS)) for file in files]
        for acks in at_once(undamaged(run.acks, _ACKS)):
            share = buckets_of(acks["document_key"], count)
            for number in np.unique(share):  # a row group takes memory until its file is closed
                writers[number].write_table(acks.filter(pa.array(share == number)))
    for file in files:
        yield _distinct(pq.read_table(file))


def at_once(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of some `AT_ONCE` each."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(map(len, waiting)) >= AT_ONCE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def undamaged(folder: Path, schema: pa.Schema, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """What stands in a run's files, one at a time. One that cannot be read, as a power cut may leave it, is
    told and counts for nothing: what it spoke of is done again."""
    for file in sorted(folder.glob("*.parquet")):
        try:
            found = pq.read_table(file, schema=schema, columns=columns)
        except (pa.ArrowException, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno:
                raise  # of the disk; of what is in the file it has no number
            _LOG.warning("%s is damaged and counts for nothing: %s", file, exc)
            continue
        yield found


def _distinct(acks: pa.Table) -> pa.Table:
    """One acknowledgement a row: a write that was tried again is acknowledged twice."""
    numbered = acks.append_column("n", pa.array(np.arange(len(acks))))
    first = numbered.group_by(["document_key", "key", "kind"]).aggregate([("n", "min")])["n_min"]
    return acks.take(first.combine_chunks().sort())
