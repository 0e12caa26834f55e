"""Measures of rankings, and how sure they are. Pure numpy: knows no queries, stores or files.

A ranking comes as the grades of its items, best first, an item once: `grades_NK` holds N rankings of up to K
items, 0 where an item is not relevant or the ranking has ended. The order given is the ranking: there are no
ties here. `relevant_N` counts the relevant items of each query, found or not, and is 1 at least: a query
without relevant items has no recall, and its caller leaves it out. `ideal_NK` holds the grades of those
items, largest first.

Every measure is one value a query, (N,); the mean over queries is the figure that papers print.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CLIP_SCORE_WEIGHT = 2.5
_BLOCK_CELLS = 2**20
"""Draws in memory at a time: about 32 MiB with their counts."""


def padded(rows: Sequence[Sequence[float]], width: int) -> Floats:
    """Rows of any length as (N, width): cut, or filled up with 0."""
    filled = np.zeros((len(rows), width))
    for number, row in enumerate(rows):
        kept = row[:width]
        filled[number, : len(kept)] = kept
    return filled


def recall(grades_NK: Floats, relevant_N: ArrayLike, k: int) -> Floats:
    """The share of *all* relevant items that stand in the first k (Manning, Raghavan and Schütze,
    Introduction to Information Retrieval, 2008, 8.3). Not `success`, which some papers call recall@k."""
    relevant = np.asarray(relevant_N)
    assert (relevant > 0).all(), "a query without relevant items has no recall"
    found: Floats = (grades_NK[:, :k] > 0).sum(axis=1) / relevant
    return found


def success(grades_NK: Floats, k: int) -> Floats:
    """1 where a relevant item stands in the first k, else 0: trec_eval's `success`, or hit rate."""
    return np.asarray((grades_NK[:, :k] > 0).any(axis=1), dtype=np.float64)


def first_rank(grades_NK: Floats) -> Floats:
    """The rank, from 1, of the first relevant item. A miss counts as K + 1, the best rank it can have."""
    hits = grades_NK > 0
    ranks: Floats = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1.0, grades_NK.shape[1] + 1.0)
    return ranks


def reciprocal_rank(grades_NK: Floats) -> Floats:
    """1 / rank of the first relevant item, 0 for a miss; its mean is MRR (Voorhees, TREC-8, 1999)."""
    ranks: Floats = np.where((grades_NK > 0).any(axis=1), 1.0 / first_rank(grades_NK), 0.0)
    return ranks


def ndcg(grades_NK: Floats, ideal_NK: Floats, k: int) -> Floats:
    """Normalised discounted cumulative gain of the first k:

        DCG@k = sum over ranks r = 1..k of  grade_r / log2(r + 1);   nDCG@k = DCG@k / DCG@k of the ideal order

    The gain is the grade itself, as in Järvelin and Kekäläinen (TOIS 2002) and trec_eval's `ndcg_cut`, with
    the discount that Burges et al. (ICML 2005) and trec_eval have. The other usage, 2^grade − 1, is the
    same for binary grades and favours high grades otherwise.
    """
    ideal = _dcg(ideal_NK[:, :k])
    assert (ideal > 0).all(), "a query without relevant items has no nDCG"
    gained: Floats = _dcg(grades_NK[:, :k]) / ideal
    return gained


def _dcg(grades_NK: Floats) -> Floats:
    discounts_K = np.log2(np.arange(grades_NK.shape[1]) + 2.0)
    gained: Floats = (grades_NK / discounts_K).sum(axis=1)
    return gained


def bootstrap(
    values_NM: Floats, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Means over N queries of M measures, and the ends of their intervals: three arrays (M,).

    The percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13): queries
    are drawn with replacement, N at a time; the interval holds the middle `confidence` of the means. All
    measures share the draws. It says how figures would vary with other queries of this kind, no more.
    """
    count = len(values_NM)
    assert count > 0, "there is nothing to draw from"
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // count)
    means_BM = np.concatenate(
        [
            _times_drawn(random.integers(count, size=(min(block, resamples - start), count)))
            @ values_NM
            / count
            for start in range(0, resamples, block)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means_BM, [tail, 1 - tail], axis=0)
    return values_NM.mean(axis=0), low, high


def _times_drawn(draws_BN: NDArray[np.int64]) -> Floats:
    """How often each of the N was drawn, in each of B draws of N."""
    rows, count = draws_BN.shape
    cells = draws_BN + count * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def paired_bootstrap(
    after_NM: Floats, before_NM: Floats, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Mean differences after − before of two runs over the same N queries, and the ends of their intervals.

    Both runs' values of a query are drawn together, so what makes a query hard cancels out (Koehn, EMNLP
    2004; Sakai, SIGIR 2006). An interval that does not hold 0 is a difference at that confidence.
    """
    assert after_NM.shape == before_NM.shape, "a pair has two values"
    return bootstrap(after_NM - before_NM, confidence, resamples, seed)


def clip_score(images_ND: ArrayLike, texts_ND: ArrayLike) -> Floats:
    """2.5 × max(cos, 0) of each picture with its text, (N,) from 0 to 2.5 (Hessel et al., CLIPScore, EMNLP
    2021, arXiv 2104.08718, eq. 1). Vectors of one CLIP space, of any length but 0.

    Comparable between texts under one model only. The paper's figures are of ViT-B/32 and texts that begin
    with "A photo depicts".
    """
    cosines = (_directions(images_ND) * _directions(texts_ND)).sum(axis=1)
    score: Floats = CLIP_SCORE_WEIGHT * np.maximum(cosines, 0.0)
    return score


def cross_modal_gap(images_ND: ArrayLike, texts_ND: ArrayLike) -> Floats:
    """How far each of N pairs is from cross-modal consistency, (N,): 0 where pictures and texts can change
    places (Goel et al., CyCLIP, NeurIPS 2022, arXiv 2205.14459: what its cross-modal loss brings down).

        gap_j = mean over pairs k of  (cos(I_j, T_k) − cos(I_k, T_j))²
    """
    images, texts = _directions(images_ND), _directions(texts_ND)
    return _mean_square(images, texts, texts, images)


def in_modal_gap(images_ND: ArrayLike, texts_ND: ArrayLike) -> Floats:
    """How far each of N pairs is from in-modal consistency, (N,): 0 where pictures are as like each other as
    their texts are (its in-modal loss).

        gap_j = mean over pairs k of  (cos(I_j, I_k) − cos(T_j, T_k))²
    """
    images, texts = _directions(images_ND), _directions(texts_ND)
    return _mean_square(images, images, texts, texts)


def _mean_square(a_ND: Floats, b_ND: Floats, c_ND: Floats, d_ND: Floats) -> Floats:
    """Of a_j·b_k − c_j·d_k, over k. A block of rows at a time: N by N is more than there may be room for."""
    rows = max(1, _BLOCK_CELLS // len(a_ND))
    blocks = (slice(start, start + rows) for start in range(0, len(a_ND), rows))
    return np.concatenate([((a_ND[j] @ b_ND.T - c_ND[j] @ d_ND.T) ** 2).mean(axis=1) for j in blocks])


def _directions(vectors_ND: ArrayLike) -> Floats:
    vectors = np.asarray(vectors_ND, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (lengths > 0).all(), "a vector of length 0 has no direction"
    directions: Floats = vectors / lengths
    return directions
