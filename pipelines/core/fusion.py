"""Fusion: several rankings in, one out. Pure; knows nothing of stores or vectors.

    score(x) = sum over rankings r that hold x of  weight_r · worth_r(rank_r(x)),   ranks from 1

What a rank is worth is either its score's `margin` over one that tells nothing, a convex combination of
scores (Bruch, Gai and Ingber, An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023, arXiv
2210.11934), or its `reciprocal` (Cormack, Clarke and Büttcher, SIGIR 2009), which reads no score. A ranking
that hardly tells its candidates apart has small margins and decides little; its ranks are as good as any.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

RANK_CONSTANT = 60
"""The c of Cormack et al.: so large that agreement of two rankings beats one first place."""


@dataclass(frozen=True, slots=True)
class Fused(Generic[Item]):
    item: Item
    score: float
    ranks: Mapping[str, int]


def fuse(
    ranks: Mapping[str, Mapping[Item, int]],
    weights: Mapping[str, float],
    worth: Mapping[str, Sequence[float]],
) -> list[Fused[Item]]:
    """Fuse rankings, best first. `ranks` gives, for each ranking by name, its items' ranks from 1; `worth`,
    what each rank is worth, the first one's first.

    Items may share a rank. Ties keep the order of the best rank in what has a weight, then of first
    appearance, so a result is reproducible.
    """
    by_item: dict[Item, dict[str, int]] = {}
    for name, ranking in ranks.items():
        for item, rank in ranking.items():
            by_item.setdefault(item, {})[name] = rank
    fused = [
        Fused(item, sum(weights[name] * worth[name][rank - 1] for name, rank in found.items()), found)
        for item, found in by_item.items()
    ]

    def best_rank(one: Fused[Item]) -> tuple[bool, int]:
        return min((not weights[name], rank) for name, rank in one.ranks.items())

    return sorted(fused, key=lambda one: (-one.score, best_rank(one)))


def margins(scores: Sequence[float], floor: float) -> list[float]:
    """How far each score is above `floor`, the one that tells nothing."""
    return [max(0.0, score - floor) for score in scores]


def reciprocal(count: int, c: int = RANK_CONSTANT) -> list[float]:
    """1 / (c + rank) of so many ranks."""
    return [1 / (c + rank) for rank in range(1, count + 1)]


def side_weights(alpha: float, visual: Mapping[str, float], text: Mapping[str, float]) -> dict[str, float]:
    """α for the visual side and 1 − α for the text side, among the branches of each by their shares."""
    return _shared(alpha, visual) | _shared(1 - alpha, text)


def _shared(weight: float, shares: Mapping[str, float]) -> dict[str, float]:
    whole = sum(shares.values())
    return {name: weight * share / whole for name, share in shares.items()}
