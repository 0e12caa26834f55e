"""Delete from the stores what is no more, and what is kept of its pictures. Knows no run and no Ray.

Every step may be repeated. Each request is waited for by itself: a store that stops answering in the middle
is asked for the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.index import Index
from pipelines.core.manifest import NEXT, Manifest
from pipelines.core.patience import patiently
from pipelines.core.previews import preview_path
from pipelines.core.readings import reading_path
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.ingest import near_duplicates
from pipelines.ingest.captions import caption_path
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.rows import DOCUMENT

_BATCH = 200


def flush(index: Index, patience_s: float = 0.0) -> None:
    """Flush every store."""
    _ask_each(index, lambda store: store.flush(), patience_s)


def delete_stale(index: Index, acks: pa.Table, known: Ledger, documents: pa.Table, patience_s: float) -> None:
    """Delete what earlier versions of these documents left behind."""
    keys = documents["document_key"].to_pylist()
    document_keys = known.rows_of(keys, ["document_key"])["document_key"].to_pylist()
    good = acks.filter(pc.and_(pc.is_null(acks["reason"]), pc.not_equal(acks["kind"], DOCUMENT)))
    for start in range(0, len(document_keys), _BATCH):
        batch = document_keys[start : start + _BATCH]
        keep = good.filter(pc.is_in(good["document_key"], pa.array(batch)))["key"].to_pylist()
        _delete(index, batch, keep, patience_s)
    if document_keys:
        patiently(lambda: index.lexical().commit(), patience_s)


def delete_from_stores(index: Index, document_keys: Sequence[str], patience_s: float = 0.0) -> None:
    """Delete documents from every store, and the files of pictures that no other document holds.

    In the ledger they are to be unfinished before this, and dropped only after it.
    """
    for start in range(0, len(document_keys), _BATCH):
        _delete(index, document_keys[start : start + _BATCH], (), patience_s)
    if document_keys:
        flush(index, patience_s)
        keys = pa.chunked_array([document_keys], pa.string())
        delete_pictures(index, near_duplicates.contents_of(index.home, keys), patience_s)


def delete_replaced(
    index: Index, document_keys: pa.ChunkedArray, now: pa.Table, patience_s: float = 0.0
) -> None:
    """Delete the files of pictures that these documents had and that are not among those which they have now,
    unless another part has them."""
    if contents := near_duplicates.contents_of(index.home, document_keys, but=now):
        patiently(lambda: index.visual().flush(), patience_s)
        delete_pictures(index, contents, patience_s)


def _delete(index: Index, document_keys: Sequence[str], keep: Sequence[str], patience_s: float) -> None:
    _ask_each(index, lambda store: store.delete_documents(document_keys, keep=keep), patience_s)


def _ask_each(index: Index, ask: Callable[[VectorStore | LexicalStore], None], patience_s: float) -> None:
    def asked(store: Callable[[], VectorStore | LexicalStore]) -> None:
        ask(store())  # which starts an embedded server that was killed meanwhile

    for store in index.stores.values():
        patiently(partial(asked, store), patience_s)


def delete_pictures(index: Index, contents: Sequence[str], patience_s: float = 0.0) -> None:
    """Delete what is kept of those of these pictures that no part has, neither of the generation that is read
    nor of one that is being built beside it."""
    gone = set(contents) - _held(index, contents, patience_s)
    if gone and Manifest.find(index.directory, NEXT) is not None:
        try:
            with index.reopened(building=not index.building) as other:
                gone -= _held(other, sorted(gone), patience_s)
        except StoreUnavailable:
            raise
        except StoreError:
            pass  # it has no stores yet, and so none of them
    for content in gone:
        preview_path(index.previews, content).unlink(missing_ok=True)
        reading_path(index.readings, content).unlink(missing_ok=True)
        caption_path(index.captions, content).unlink(missing_ok=True)


def _held(index: Index, contents: Sequence[str], patience_s: float) -> set[str]:
    """Those of these pictures that a part has."""
    held: set[str] = set()
    for first in range(0, len(contents), _BATCH):
        some = contents[first : first + _BATCH]
        held |= patiently(partial(_contents, index, some), patience_s)
    return held


def _contents(index: Index, some: Sequence[str]) -> set[str]:
    return index.visual().contents(some)
