"""Rank fusion: several rankings in, one out. Pure; knows nothing of stores or vectors.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009) with a weight for each ranking:

    score(x) = sum over rankings r that hold x of  weight_r / (c + rank_r(x)),   ranks from 1

Scores of different engines are unlike, so only their order is read.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

RANK_CONSTANT = 60
"""The c of the paper: large enough that agreement of two rankings beats one first place."""


@dataclass(frozen=True, slots=True)
class Fused(Generic[Item]):
    item: Item
    score: float
    ranks: Mapping[str, int]


def fuse(
    ranks: Mapping[str, Mapping[Item, int]], weights: Mapping[str, float], c: int = RANK_CONSTANT
) -> list[Fused[Item]]:
    """Fuse rankings, best first. `ranks` gives, for each ranking by name, its items' ranks from 1.

    Items may share a rank. Ties keep the order of the best rank, then of first appearance, so a
    result is reproducible.
    """
    by_item: dict[Item, dict[str, int]] = {}
    for name, ranking in ranks.items():
        for item, rank in ranking.items():
            by_item.setdefault(item, {})[name] = rank
    fused = [
        Fused(item, sum(weights[name] / (c + rank) for name, rank in found.items()), found)
        for item, found in by_item.items()
    ]
    return sorted(fused, key=lambda f: (-f.score, min(f.ranks.values())))


def side_weights(alpha: float, visual: Sequence[str], text: Sequence[str]) -> dict[str, float]:
    """α for the visual side and 1 − α for the text side, each shared evenly by its branches.

    With one branch a side this is α/(c + rank_visual) + (1 − α)/(c + rank_text).
    """
    return {name: alpha / len(visual) for name in visual} | {name: (1 - alpha) / len(text) for name in text}
