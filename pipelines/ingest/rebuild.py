"""Rebuild an index beside itself: begin or take up the next generation, prove it whole, swap. Knows no Ray.

Whatever happens before the swap, the generation that is read stays as it is. A rebuild that was cut short is
taken up by its ledger, as any run is; where the models are others than those that began it, it begins anew.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any, Final

from pipelines.core.errors import MmragError, StoreError, StoreUnavailable, UsageError
from pipelines.core.index import Index
from pipelines.core.manifest import NEXT, Manifest, home_of
from pipelines.core.near_duplicates import FILE as REPORT
from pipelines.ingest.counts import disagreeing
from pipelines.ingest.deletion import delete_pictures, flush
from pipelines.ingest.ledger import Ledger, joined
from pipelines.ingest.near_duplicates import PICTURES, contents_of
from pipelines.ingest.plan import FEW_DOCUMENTS
from pipelines.ingest.refused import FILE as REFUSED
from pipelines.ingest.sink import recover

_LOG = logging.getLogger(__name__)
_SETTING = "ingest.max_pruned_fraction"
_COMPARED = ["document_key", "scope", "images", "chunks"]


def begin(index: Index, scopes: Iterable[str], max_lost_fraction: float, patience_s: float = 0.0) -> Ledger:
    """Make the next generation in an `index` that is opened for building, or take up the half-made one.

    Returns the ledger of the generation that is read. Only for the holder of the write lock. Raises
    UsageError where there is no index and where `scopes` leave out one of its sources.
    """
    live = Manifest.load(index.directory)
    with index.reopened(writable=True) as opened:
        known = recover(opened, patience_s)
    require_all_sources(known, scopes, max_lost_fraction)
    if not is_begun(index, live):
        index.abandon()
        drop_generation(index, live.generation + 1)
        index.create(live.generation + 1, replaces=live.generation)
    return known


def is_begun(index: Index, live: Manifest) -> bool:
    """Whether there is a half-made generation, next to the one that is read, and of the configured models."""
    begun = Manifest.find(index.directory, NEXT)
    if begun is None or begun.generation != live.generation + 1:
        return False
    spaces = index.encoder().space.as_dict(), index.embedder().space.as_dict()
    return (begun.space, begun.text_space) == spaces


def require_all_sources(known: Ledger, scopes: Iterable[str], max_lost_fraction: float) -> None:
    """Raise UsageError if documents are of sources that are not named, unless all may be lost."""
    missing = sorted(known.scopes() - set(scopes))
    if missing and max_lost_fraction < 1:
        raise UsageError(
            f"a rebuild of these sources alone would lose the documents of: {', '.join(missing)}; "
            f"name them too, or let them go with --set {_SETTING}=1"
        )


def swap(index: Index, live: Ledger, built: Ledger, max_lost_fraction: float, patience_s: float = 0.0) -> int:
    """Make what was built the generation that is read, once it is proved whole.

    Returns the number of documents that are no more. Only for the holder of the write lock. Raises
    MmragError, with nothing swapped, where a store does not hold what the ledger says (it is begun anew then)
    and where too many documents that were found would not be found any more; StoreUnavailable where a store
    does not answer for `patience_s`, which the same command takes up.
    """
    _require_counts(index, built, patience_s)
    gone = _require_few_lost(live, built, max_lost_fraction)
    index.publish()
    return gone


def _require_counts(index: Index, built: Ledger, patience_s: float) -> None:
    flush(index, patience_s)
    if wrong := disagreeing(index, built, patience_s):
        index.abandon()
        raise MmragError(
            f"the rebuilt stores do not hold what the ledger says ({'; '.join(wrong)}), and nothing was "
            "swapped: the same command begins anew, with the vectors of the cache"
        )


def _require_few_lost(live: Ledger, built: Ledger, max_fraction: float) -> int:
    """Returns how many documents are gone."""
    had: defaultdict[str, Counter[str]] = defaultdict(Counter)
    lost: defaultdict[str, Counter[str]] = defaultdict(Counter)
    gone = 0
    for before, after in joined(live, built, _COMPARED):
        now = {row["document_key"]: row for row in after.to_pylist()}
        for row in before.to_pylist():
            gone += row["document_key"] not in now
            for what, holds in _KINDS.items():
                if holds(row):
                    had[what][row["scope"] or ""] += 1
                    lost[what][row["scope"] or ""] += not holds(now.get(row["document_key"]))
    for what in _KINDS:
        _check_lost(what, lost[what], had[what], max_fraction)
    return gone


def require_few_unlisted(live: Ledger, unlisted: Collection[str], max_lost_fraction: float) -> None:
    """Raise what `swap` will at the least, where documents with these keys were not listed."""
    for what, holds in _KINDS.items():
        had, lost = Counter[str](), Counter[str]()
        for rows in live.tables(_COMPARED):
            for row in filter(holds, rows.to_pylist()):
                had[row["scope"] or ""] += 1
                lost[row["scope"] or ""] += row["document_key"] in unlisted
        _check_lost(what, lost, had, max_lost_fraction)


def _check_lost(what: str, lost: Counter[str], had: Counter[str], max_fraction: float) -> None:
    """By source, where a few may all go as with --prune, and of all together, where a few may only lose their
    pictures."""
    few = FEW_DOCUMENTS if what == _WITH_PICTURES else 0
    for where, number, of, most in [
        *((scope, count, had[scope], FEW_DOCUMENTS) for scope, count in lost.items()),
        ("the index", lost.total(), had.total(), few),
    ]:
        if number > most and number > max_fraction * of:
            raise MmragError(
                f"the rebuild lost {number:,} of the {of:,} {what} of {where or 'an unknown source'}, and "
                "nothing was swapped: is all that it reads mounted and whole? The same command takes it up; "
                f"--set {_SETTING}=1 lets them go"
            )


def _holds(row: dict[str, Any] | None) -> bool:
    return row is not None and bool((row["images"] or 0) + (row["chunks"] or 0))


def _shows(row: dict[str, Any] | None) -> bool:
    return row is not None and bool(row["images"])


_WITH_PICTURES: Final = "documents with pictures"
_KINDS: Final = {"documents": _holds, _WITH_PICTURES: _shows}


def drop_replaced(index: Index, patience_s: float = 0.0) -> None:
    """Delete the generation before, kept for readers that had it open, and the pictures that no other has.
    Only for the write lock's holder. Where the stores of the other were lost its pictures stay, until it is
    made anew. Raises StoreUnavailable where one does not answer for `patience_s`."""
    manifest = Manifest.load(index.directory)
    if manifest.replaces is not None:
        if contents := contents_of(home_of(index.directory, manifest.replaces)):
            try:
                with index.reopened() as live:
                    delete_pictures(live, contents, patience_s)
            except StoreUnavailable:
                raise
            except StoreError as exc:
                _LOG.warning("pictures of what was replaced stay: %s", exc)
        drop_generation(index, manifest.replaces)
        replace(manifest, replaces=None).save(index.directory)


def drop_generation(index: Index, generation: int) -> None:
    """Delete what belongs to a generation alone: stores, ledger, runs."""
    index.drop(generation)
    home = home_of(index.directory, generation)
    Ledger.drop(home)
    for name in (PICTURES, REPORT, REFUSED):
        (home / name).unlink(missing_ok=True)
    shutil.rmtree(home / "runs", ignore_errors=True)
    if generation:
        shutil.rmtree(home, ignore_errors=True)
