"""What a run has to do: the items that are new or changed, as Parquet, and the documents that are gone.

The corpus streams through: only the ledger's keys are held in memory. Knows no Ray and no store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.core.errors import MmragError
from pipelines.core.index import Index
from pipelines.core.space import digest
from pipelines.core.types import store_key
from pipelines.ingest import captions, chunk, ocr, sources
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.hashing import document_digest, document_stamp
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.sources import Item, Listing, Rejected

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
FEW_DOCUMENTS = 100  # these may all go at once: they are soon ingested again


@dataclass(frozen=True, slots=True)
class Plan:
    """A listed corpus against the ledger.

    `gone` are the keys of known documents that their source no longer holds, by the source's address.
    `refused` is what listing refused; `rescoped` are unchanged documents that another source holds now.
    """

    new: int
    changed: int
    unchanged: int
    known_rejected: int
    gone: Mapping[str, tuple[str, ...]]
    refused: tuple[Rejected, ...]
    rescoped: Mapping[str, str]

    @property
    def to_do(self) -> int:
        return self.new + self.changed

    @property
    def gone_keys(self) -> tuple[str, ...]:
        return tuple(key for keys in self.gone.values() for key in keys)


def make_plan(
    listing: Listing,
    ledger: Ledger,
    fingerprint: str,
    out: Path | None = None,
    *,
    retry_rejected: bool = False,
    whole: bool = False,
) -> Plan:
    """Compare, and write the items that need work under `out`, a Parquet file for each thousand.

    With `retry_rejected` a document of which a part was refused needs work too. With `whole` the listing is
    all that there shall be: whatever it does not have is gone, of whichever source it was.
    """
    refused: list[Rejected] = []
    rescoped: dict[str, str] = {}
    counts = {"new": 0, "changed": 0, "unchanged": 0, "known_rejected": 0}
    listed = np.zeros(len(ledger), dtype=np.bool_)

    def needed() -> Iterator[Item]:
        for item in listing:
            if isinstance(item, Rejected):
                refused.append(item)
                continue
            key = store_key(item.tenant, item.document_id)
            entry = ledger.get(key)
            if entry is None:
                counts["new"] += 1
                yield item
                continue
            listed[ledger.row_of(key)] = True
            if not _is_unchanged(item, entry, fingerprint) or (retry_rejected and entry["rejected"]):
                counts["changed"] += 1
                yield item
                continue
            counts["unchanged"] += 1
            counts["known_rejected"] += entry["rejected"]
            if entry["scope"] != item.scope:
                rescoped[key] = item.scope

    for n, batch in enumerate(_batched(needed(), _ROWS_PER_FILE)):
        if out is not None:
            _write(batch, out, n)
    gone = _unlisted(ledger, listed) if whole else _gone(ledger, listing.scopes, listed, refused)
    return Plan(**counts, gone=gone, refused=tuple(refused), rescoped=rescoped)


def to_prune(plan: Plan, ledger: Ledger, max_fraction: float) -> tuple[str, ...]:
    """The keys of all documents that are gone. Raises MmragError where that looks like an accident."""
    for scope, keys in plan.gone.items():
        known = ledger.documents_in(scope)
        if len(keys) > FEW_DOCUMENTS and len(keys) > max_fraction * known:
            raise MmragError(
                f"{scope} holds {len(keys):,} of its {known:,} documents no more, and nothing was done: "
                "is it mounted and whole? --set ingest.max_pruned_fraction=1 deletes them"
            )
    return plan.gone_keys


def fingerprint_of(index: Index, config: IngestConfig) -> str:
    """Of everything that decides what a document becomes: both spaces, readers, OCR, captions, chunker."""
    return digest(
        {
            "space": index.encoder().space.fingerprint,
            "text_space": index.embedder().space.fingerprint,
            "sources": sources.RULES,
            "chunks": chunk.RULES,
            "chunking": config.chunking.model_dump(mode="json"),
            **ocr.fingerprint(config.ocr),
            **captions.fingerprint(config.captions),
        }
    )


def _write(items: list[Item], out: Path, n: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    beside = out / f".{n:06d}"
    pq.write_table(pa.Table.from_pylist([asdict(i) for i in items], schema=ITEMS), beside)
    beside.replace(out / f"{n:06d}.parquet")  # whole or not at all, for the recovery of this run


def _is_unchanged(item: Item, entry: dict[str, object], fingerprint: str) -> bool:
    if entry["fingerprint"] != fingerprint:
        return False
    inputs = entry["inputs"]
    assert isinstance(inputs, list)
    if not set(item.inputs) <= set(inputs):
        return False
    stamp = document_stamp(item, inputs)
    return bool(stamp and stamp == entry["stamp"]) or document_digest(item, inputs) == entry["digest"]


def _unlisted(ledger: Ledger, listed: NDArray[np.bool_]) -> dict[str, tuple[str, ...]]:
    rows = ledger.rows.filter(pa.array(~listed)).select(["document_key", "scope"]).to_pylist()
    gone: dict[str, list[str]] = {}
    for row in rows:
        gone.setdefault(row["scope"] or "", []).append(row["document_key"])
    return {scope: tuple(keys) for scope, keys in gone.items()}


def _gone(
    ledger: Ledger, scopes: Mapping[str, bool], listed: NDArray[np.bool_], refused: list[Rejected]
) -> dict[str, tuple[str, ...]]:
    """By scope, the keys of documents that were not listed, and may not have been refused either."""
    missing = ledger.in_scopes(scopes, without=listed)
    if not len(missing):
        return {}
    refused_ids = {bad.document_id for bad in refused}
    folders = tuple(f"{bad.source}/" for bad in refused)  # one that cannot be listed hides what is in it
    # What was refused under no id but its place could be any document of its manifest.
    nameless = {bad.source for bad in refused if f"/{bad.document_id}" in bad.source}
    unclear = {
        scope
        for scope, is_folder in scopes.items()
        if not is_folder and any(source.startswith(scope) for source in nameless)
    }
    gone: dict[str, list[str]] = {}
    for row in missing.select(["document_key", "document_id", "inputs", "scope"]).to_pylist():
        is_hidden = row["scope"] in unclear or any(file.startswith(folders) for file in row["inputs"] or ())
        if row["document_id"] not in refused_ids and not is_hidden:
            gone.setdefault(row["scope"], []).append(row["document_key"])
    return {scope: tuple(keys) for scope, keys in gone.items()}


def _batched(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
