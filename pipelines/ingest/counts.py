"""Do the stores hold what the ledger says? Knows no Ray and no model."""

from __future__ import annotations

from pipelines.core.index import Index
from pipelines.ingest.ledger import Ledger


def disagreeing(index: Index, ledger: Ledger) -> list[str]:
    """Both numbers of parts of each store that holds another than the ledger says.

    Of an unfinished document a store may hold any, so where there are some it is to hold at least the parts
    of the others. Raises StoreError.
    """
    some_unfinished = ledger.has_unfinished()
    wrong = []
    for name, expected in ledger.parts(finished=some_unfinished).items():
        store = index.stores[name]()
        store.flush()
        count = store.count()
        if count < expected or (count > expected and not some_unfinished):
            wrong.append(f"{name} {count:,} parts, not {expected:,}{' or more' if some_unfinished else ''}")
    return wrong
