"""What an index holds: its ledger, its stores' own counts, its spaces. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow.dataset as pads

from pipelines.core.errors import StoreError
from pipelines.core.index import Index
from pipelines.core.manifest import NEXT, Manifest, home_of
from pipelines.core.space import digest
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.ingest.history import last_runs
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.near_duplicates import read_report
from pipelines.ingest.sink import unfinished_runs

PROBES: Final = 32
"""Stored vectors of each collection that a probe searches for."""
FIRST: Final = 10
_TIE: Final = 1e-4  # between what a store computes and what we do


def index_status(index: Index) -> dict[str, Any]:
    """A JSON-ready description. A store that does not answer is described, not raised."""
    manifest = index.met()
    ledger = Ledger.load(index.home)
    rejected = index.directory / "rejected"
    return {
        "index": str(index.directory),
        "generation": manifest.generation,
        "kept_generation": manifest.replaces,
        "rebuild": _rebuild(index.directory),
        "ledger": ledger.totals(),
        "stores": {name: _count(store) for name, store in index.stores.items()},
        "expected": ledger.parts(),
        "space": dict(manifest.space),
        "text_space": dict(manifest.text_space),
        "fingerprints": {"visual": digest(manifest.space), "text": digest(manifest.text_space)},
        "metadata_types": dict(index.manifest().metadata_types),
        "near_duplicates": asdict(alike) if (alike := read_report(index.home)) else None,
        "dead_letters": pads.dataset(rejected, format="parquet").count_rows() if rejected.is_dir() else 0,
        "unfinished_runs": [run.name for run in unfinished_runs(index.home)],
        "last_runs": last_runs(index.directory),
    }


def recall_probe(index: Index) -> dict[str, dict[str, int] | str]:
    """Of each collection, how many of some stored vectors (`probed`) find their own part among the first ten
    (`found`). Fewer than all: its index is damaged, or searches too little (`stores.milvus.search`)."""
    return {name: _probe(store) for name, store in (("visual", index.visual), ("text", index.text))}


def _probe(store: Callable[[], VectorStore]) -> dict[str, int] | str:
    try:
        parts, vectors = next(store().scan(), ([], ()))
        sample = list(zip(parts, vectors, strict=True))[:PROBES]
        found = 0
        for part, vector in sample:
            hits = store().search(vector, FIRST)
            is_there = part.key in {hit.part.key for hit in hits}
            # Where more than ten are the same, any of them will do.
            found += is_there or (bool(hits) and hits[-1].score >= float(vector @ vector) - _TIE)
        return {"probed": len(sample), "found": found}
    except StoreError as exc:
        return str(exc)


def _rebuild(directory: Path) -> dict[str, Any] | None:
    """What a rebuild that has not ended holds already; None where there is none."""
    begun = Manifest.find(directory, NEXT)
    if begun is None:
        return None
    home = home_of(directory, begun.generation)
    acknowledged = sum(run.acknowledged() for run in unfinished_runs(home))
    totals = Ledger.load(home).totals()
    return {"generation": begun.generation, "ledger": totals, "acknowledged_rows": acknowledged}


def _count(store: Callable[[], VectorStore | LexicalStore]) -> int | str:
    try:
        return store().count()
    except StoreError as exc:
        return str(exc)
