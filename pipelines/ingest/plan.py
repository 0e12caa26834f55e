"""What a run has to do: the items that are new or changed, as Parquet. Knows no Ray and no store.

The corpus streams through: only the ledger's keys are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.types import store_key
from pipelines.ingest.hashing import document_digest, document_stamp
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.sources import Item, Rejected

ITEMS = pa.schema(
    [
        ("form", pa.string()),
        ("document_id", pa.string()),
        ("address", pa.string()),
        ("scope", pa.string()),
        ("root", pa.string()),
        ("payload", pa.binary()),
        ("inputs", pa.list_(pa.string())),
        ("tenant", pa.string()),
    ]
)
_ROWS_PER_FILE = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts of a listed corpus, and what listing already refused."""

    to_do: int
    unchanged: int
    known_rejected: int
    refused: tuple[Rejected, ...]


def make_plan(listed: Iterable[Item | Rejected], ledger: Ledger, fingerprint: str, out: Path) -> Plan:
    """Write the items that need work under `out`, a Parquet file for each thousand."""
    out.mkdir(parents=True, exist_ok=True)
    refused: list[Rejected] = []
    counts = {"to_do": 0, "unchanged": 0, "known_rejected": 0}

    def needed() -> Iterator[Item]:
        for item in listed:
            if isinstance(item, Rejected):
                refused.append(item)
                continue
            entry = ledger.get(store_key(item.tenant, item.document_id))
            if entry is not None and _is_unchanged(item, entry, fingerprint):
                counts["unchanged"] += 1
                counts["known_rejected"] += entry["rejected"]
            else:
                counts["to_do"] += 1
                yield item

    for n, batch in enumerate(_batched(needed(), _ROWS_PER_FILE)):
        beside = out / f".{n:06d}"
        pq.write_table(pa.Table.from_pylist([asdict(i) for i in batch], schema=ITEMS), beside)
        beside.replace(out / f"{n:06d}.parquet")  # whole or not at all, for the recovery of this run
    return Plan(**counts, refused=tuple(refused))


def _is_unchanged(item: Item, entry: dict[str, object], fingerprint: str) -> bool:
    if entry["fingerprint"] != fingerprint:
        return False
    inputs = entry["inputs"]
    assert isinstance(inputs, list)
    if not set(item.inputs) <= set(inputs):
        return False
    stamp = document_stamp(item, inputs)
    return bool(stamp and stamp == entry["stamp"]) or document_digest(item, inputs) == entry["digest"]


def _batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
