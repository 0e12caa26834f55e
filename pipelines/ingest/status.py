"""What an index holds: its ledger, its stores' own counts, its spaces. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.dataset as pads

from pipelines.core.errors import StoreError
from pipelines.core.index import Index
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.sink import unfinished_runs


def index_status(index: Index) -> dict[str, Any]:
    """A JSON-ready description. A store that does not answer is described, not raised."""
    manifest = index.manifest()
    ledger = Ledger.load(index.directory / "ledger.parquet").totals()
    rejected = index.directory / "rejected"
    return {
        "index": str(index.directory),
        "ledger": ledger,
        "stores": {
            "visual": _count(index.visual),
            "text": _count(index.text),
            "lexical": _count(index.lexical),
        },
        "expected": {"visual": ledger["images"], "text": ledger["chunks"], "lexical": ledger["chunks"]},
        "space": dict(manifest.space),
        "text_space": dict(manifest.text_space),
        "metadata_types": dict(manifest.metadata_types),
        "dead_letters": pads.dataset(rejected, format="parquet").count_rows() if rejected.is_dir() else 0,
        "unfinished_runs": [run.name for run in unfinished_runs(index.directory)],
    }


def _count(store: Callable[[], VectorStore | LexicalStore]) -> int | str:
    try:
        return store().count()
    except StoreError as exc:
        return str(exc)
