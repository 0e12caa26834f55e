"""What an index holds: its ledger, its stores' own counts, its spaces. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from pipelines.core.errors import StoreError
from pipelines.core.index import Index
from pipelines.core.manifest import NEXT, Manifest, home_of
from pipelines.core.space import digest
from pipelines.core.stores import LexicalStore, Vectors, VectorStore
from pipelines.core.writer import writer_of
from pipelines.ingest import refused
from pipelines.ingest.history import last_runs
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.near_duplicates import read_report
from pipelines.ingest.run import unfinished_runs
from pipelines.ingest.sizes import bytes_by_part

T = TypeVar("T")

PROBES: Final = 32
"""Stored vectors of each collection that are searched for."""
FIRST: Final = 10
_TIE: Final = 1e-4  # between what a store computes and what we do
_SKIPPED: Final = "not measured, for the store could not be counted"


def index_status(index: Index) -> dict[str, Any]:
    """A JSON-ready description. A store that does not answer is described, not raised.

    `writer`: who writes the index now; `running` is false of one that was killed, and None where that cannot
    be seen from here. While it runs, `unfinished_runs` are its own, or are taken up by it.
    """
    manifest = index.met()
    ledger = Ledger.load(index.home)
    totals = ledger.totals()
    unfinished, writer = _unfinished(index)
    return {
        "index": str(index.directory),
        "generation": manifest.generation,
        "kept_generation": manifest.replaces,
        "rebuild": _rebuild(index.directory),
        "ledger": totals,
        "stores": _at_once({name: partial(_count, store) for name, store in index.stores.items()}),
        "expected": ledger.parts(),
        "bytes": bytes_by_part(index.directory),
        "space": dict(manifest.space),
        "text_space": dict(manifest.text_space),
        "fingerprints": {"visual": digest(manifest.space), "text": digest(manifest.text_space)},
        "metadata_types": dict(index.manifest().metadata_types),
        "near_duplicates": asdict(alike) if (alike := read_report(index.home)) else None,
        "dead_letters": totals["rejected"] + refused.standing(index.home),
        "unfinished_runs": unfinished,
        "writer": writer,
        "last_runs": last_runs(index.directory),
    }


def recall(index: Index, counted: Mapping[str, int | str]) -> dict[str, dict[str, Any] | str]:
    """Of each collection recall@10 of the configured search against an exact one, which reads every vector:
    the share of the ten nearest to some stored vectors (`probed`, their number) that a search finds.

    `counted`: the `stores` of `index_status`. One that could not be counted is not waited for again.
    """
    stores = {"visual": index.visual, "text": index.text}
    calls = {name: partial(_recall, stores[name]) for name in stores if isinstance(counted[name], int)}
    return dict.fromkeys(stores, _SKIPPED) | _at_once(calls)


def _recall(open_store: Callable[[], VectorStore]) -> dict[str, Any] | str:
    try:
        store, nearest = open_store(), _Nearest()
        for _, vectors in store.scan():
            nearest.add(vectors)
        least = nearest.least_scores()
        found = [
            sum(hit.score >= score - _TIE for hit in store.search(vector, FIRST))
            for vector, score in zip(nearest.probes, least, strict=True)
        ]
    except StoreError as exc:
        return str(exc)
    wanted = len(found) * nearest.wanted
    return {"probed": len(found), "recall": sum(found) / wanted if wanted else None}


class _Nearest:
    """The scores of the nearest to some of the vectors that are added, a block in memory at a time."""

    def __init__(self) -> None:
        self.probes: Vectors = np.empty((0, 0), np.float32)
        self._scores = np.empty((0, 0), np.float32)

    def add(self, vectors_ND: Vectors) -> None:
        if not len(self.probes):
            self.probes = vectors_ND[:PROBES]
            self._scores = np.empty((len(self.probes), 0), np.float32)
        both = np.concatenate([self._scores, self.probes @ vectors_ND.T], axis=1)
        self._scores = -np.sort(-both, axis=1)[:, :FIRST]

    @property
    def wanted(self) -> int:
        """How many there are for each probe: ten, of fewer vectors all."""
        return self._scores.shape[1]

    def least_scores(self) -> list[float]:
        """Of each probe, the score of the farthest of its nearest."""
        return [float(row[-1]) for row in self._scores]


def _unfinished(index: Index) -> tuple[list[str], dict[str, Any] | None]:
    """The runs that have not ended, and who writes. What begins or ends while this looks is neither."""
    runs = list(unfinished_runs(index.home))
    writer = writer_of(index.directory)
    told = writer.as_dict() if writer else None
    if writer_of(index.directory) != writer:
        told = None  # it is no more because it ended
    return [run.name for run in runs if run.described.exists()], told


def _rebuild(directory: Path) -> dict[str, Any] | None:
    """What a rebuild that has not ended holds already; None where there is none."""
    begun = Manifest.find(directory, NEXT)
    if begun is None:
        return None
    home = home_of(directory, begun.generation)
    acknowledged = sum(run.acknowledged() for run in unfinished_runs(home))
    totals = Ledger.load(home).totals()
    return {"generation": begun.generation, "ledger": totals, "acknowledged_rows": acknowledged}


def _at_once(calls: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """What each returns. Stores that hang are waited for together, not one after another."""
    with ThreadPoolExecutor() as pool:
        asked = {name: pool.submit(call) for name, call in calls.items()}
        return {name: answer.result() for name, answer in asked.items()}


def _count(store: Callable[[], VectorStore | LexicalStore]) -> int | str:
    try:
        return store().count()
    except StoreError as exc:
        return str(exc)
