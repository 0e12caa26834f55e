"""Whether the stores hold as many parts as the ledger says. Knows no Ray and no model."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from pipelines.core.index import Index
from pipelines.core.patience import patiently
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.ingest.ledger import Ledger

_LOG = logging.getLogger(__name__)


def disagreeing(index: Index, ledger: Ledger, patience_s: float = 0.0) -> list[str]:
    """Both numbers of each store that holds another than the ledger says, such as "lexical 3 parts, not 5".

    Of an unfinished document a store may hold any part, so where there are some it is to hold at least those
    of the others. Raises StoreError, and StoreUnavailable where a store does not answer for `patience_s`.
    """
    some_unfinished = ledger.has_unfinished()
    wrong = []
    for name, expected in ledger.parts(finished=some_unfinished).items():
        count = patiently(partial(_count, index.stores[name]), patience_s)
        if count < expected or (count > expected and not some_unfinished):
            wrong.append(f"{name} {count:,} parts, not {expected:,}{' or more' if some_unfinished else ''}")
    return wrong


def warn_of_disagreement(index: Index, ledger: Ledger, patience_s: float = 0.0) -> list[str]:
    """The same, told as a warning too. Raises StoreUnavailable where a store does not answer for
    `patience_s`."""
    found = disagreeing(index, ledger, patience_s)
    if found:
        _LOG.warning(
            "the stores do not hold what the ledger says (%s): was one restored, or killed before it had "
            "written? `mmrag ingest --rebuild` of all sources mends it",
            "; ".join(found),
        )
    return found


def _count(store: Callable[[], VectorStore | LexicalStore]) -> int:
    return store().count()
