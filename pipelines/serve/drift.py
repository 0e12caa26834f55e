"""How far questions have moved from the index, and the index from itself. Knows no Ray.

The index is what questions are compared with, not the first questions after a start: it is the same for every
replica, and stays so when one starts anew. The figure's level says little, for questions are no passages and
words are no pictures; that it moves says that others are asked, or that the index holds something else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric

from pipelines.core.index import Index
from pipelines.core.retriever import Branch
from pipelines.serve import metrics

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
Collection = Literal["visual", "text"]

SAMPLE: Final = 2048
"""Vectors of the index that stand for all of them."""

_SEARCHED: Final[Mapping[Branch, Collection]] = {
    "image_to_image": "visual",
    "text_to_image": "visual",
    "text": "text",
}


@dataclass(frozen=True, slots=True)
class Moments:
    """Of vectors, coordinate by coordinate: means and standard deviations, (D,) each."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def moments(vectors_ND: Vectors) -> Moments:
    return Moments(vectors_ND.mean(axis=0, dtype=np.float64), vectors_ND.std(axis=0, dtype=np.float64))


def frechet(one: Moments, other: Moments) -> float:
    """The squared Fréchet distance of two normal distributions (Dowson and Landau, Journal of Multivariate
    Analysis 12, 1982; of embeddings, FID: Heusel et al., NeurIPS 2017, arXiv 1706.08500; as a measure of
    drift: Greco et al., DriftLens, arXiv 2406.17813), of which only the variances are kept. Then it is

        |mean - mean'|² + sum over coordinates of (std - std')²

    0 for equal ones; of unit vectors at most 4. N and M draws from the same are about 1.5 (V / N + V / M)
    apart, where V is the sum of the coordinates' variances, at most 1 of unit vectors: the means are V / N +
    V / M apart, and the spreads add half of that, as of normal coordinates.
    """
    apart = np.square(one.mean - other.mean) + np.square(one.std - other.std)
    return float(apart.sum())


def sampled(index: Index, collection: Collection) -> Vectors:
    """Vectors of the index as it is now, (N, D) with N at most SAMPLE; none of an empty one.

    The first ones of a scan, which goes through a Milvus collection by key. Keys are hashes: these parts are
    as good as drawn by chance, and the same ones again while the index has them. Raises SpaceMismatch,
    StoreUnavailable and StoreError.
    """
    with index.reopened() as now:
        now.check_spaces()
        store = now.visual() if collection == "visual" else now.text()
        vectors_ND = np.empty((0, store.dim), np.float32)
        for _, block in store.scan():
            vectors_ND = np.concatenate([vectors_ND, block])[:SAMPLE]
            if len(vectors_ND) == SAMPLE:
                break
    return vectors_ND


class Drift:
    """Compares each `window` of questions, and with 0 none, with what `sample` gives of the index.

    Safe to call from several threads; the comparing has its own. What it cannot compare is logged, and the
    distance before stands.
    """

    def __init__(self, window: int, sample: Callable[[Collection], Vectors]) -> None:
        self._window, self._sample = window, sample
        self._asked: dict[Branch, list[Vectors]] = {}
        self._lock = threading.Lock()
        self._first: dict[Collection, Moments] = {}
        self._questions: dict[str, float] = {}
        self._index: dict[str, float] = {}
        self._thread = ThreadPoolExecutor(1, "drift")

    def add(self, branch: Branch, vector: Vectors) -> None:
        """The vector (D,) of a question that this branch searches with."""
        if not self._window:
            return
        with self._lock:
            asked = self._asked.setdefault(branch, [])
            asked.append(vector)
            if len(asked) < self._window:
                return
            del self._asked[branch]
        self._thread.submit(self._compare, branch, asked).add_done_callback(_told)

    def families(self) -> list[Metric]:
        """Nothing before the first window has ended."""
        return metrics.drift(dict(self._questions), dict(self._index))

    def _compare(self, branch: Branch, asked: Sequence[Vectors]) -> None:
        collection = _SEARCHED[branch]
        held = self._sample(collection)
        if not len(held):
            return
        now = moments(held)
        self._questions[branch] = frechet(moments(np.stack(asked)), now)
        self._index[collection] = frechet(self._first.setdefault(collection, now), now)


def _told(comparing: Future[None]) -> None:
    if failure := comparing.exception():
        log.warning("questions could not be compared with the index: %s", failure, exc_info=failure)
