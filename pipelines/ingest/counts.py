"""Whether the stores hold as many parts as the ledger says. Knows no Ray."""

from __future__ import annotations

import logging
from functools import partial

from pipelines.core.index import Index
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.patience import patiently

_LOG = logging.getLogger(__name__)


def differences(index: Index, ledger: Ledger) -> list[str]:
    """One for each store that holds another number, such as "lexical 3 parts, not 5". Raises StoreError."""
    return [
        f"{name} {count:,} parts, not {expected:,}"
        for name, expected in ledger.parts().items()
        if (count := index.stores[name]().count()) != expected
    ]


def warn_of_differences(index: Index, ledger: Ledger, patience_s: float = 0.0) -> list[str]:
    """The same, told as a warning too. None where a document is unfinished: nobody knows what is there of it.
    Raises StoreUnavailable where a store does not answer for `patience_s`."""
    if "unfinished" in ledger.totals()["status"]:
        return []
    found = patiently(partial(differences, index, ledger), patience_s)
    if found:
        _LOG.warning(
            "the stores do not hold what the ledger says (%s): was one restored, or killed before it had "
            "written? `mmrag ingest --rebuild` of all sources mends it",
            "; ".join(found),
        )
    return found
