"""Delete documents from every store and the ledger. Knows no Ray."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.core.index import Index
from pipelines.ingest.deletion import delete_from_stores
from pipelines.ingest.sink import recover


def delete_documents(index: Index, ids: Sequence[str], tenant: str | None = None) -> tuple[int, list[str]]:
    """Delete documents by id, of one tenant or of all. Returns how many, and the ids not found.

    The ledger has them as unfinished first and drops them last: after a deletion that was cut short, another
    finds them, and an ingest writes them again.
    """
    index.manifest()
    with index.write_lock():
        ledger = recover(index)
        doomed = ledger.with_documents_of(ids, tenant)
        found = set(doomed["document_id"].to_pylist())
        keys = doomed["document_key"].to_pylist()
        if keys:
            ledger = ledger.unfinished(keys)
            delete_from_stores(index, keys)
            ledger.changed(gone=keys)
    return len(keys), [document_id for document_id in ids if document_id not in found]
