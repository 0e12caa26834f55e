"""Which samples a worker reads at a step: a pure function. Knows nothing of files, torch or Ray."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_GROUPED_BATCHES = 50


@dataclass(frozen=True, eq=False)
class Grouping:
    """Samples of like length go into one micro-batch, so that it has little padding: 50 batches of an epoch
    at a time are sorted by length, cut anew, and shuffled. `lengths`: of each ordinal, in any unit."""

    lengths: NDArray[np.int64]
    batch: int

    def of(self, order: NDArray[np.int64], random: np.random.RandomState) -> NDArray[np.int64]:
        """The order, grouped; what is left at the end of an epoch stays as it is."""
        window = self.batch * _GROUPED_BATCHES
        whole = len(order) // window * window
        grouped = order.copy()
        for first in range(0, whole, window):
            part = order[first : first + window]
            by_length = part[np.argsort(self.lengths[part], kind="stable")]
            batches = by_length.reshape(_GROUPED_BATCHES, self.batch)
            grouped[first : first + window] = batches[random.permutation(_GROUPED_BATCHES)].ravel()
        return grouped


def sample_order(
    count: int,
    seed: int,
    step: int,
    world_size: int,
    rank: int,
    batch: int,
    accumulate: int,
    grouping: Grouping | None = None,
) -> list[tuple[int, int]]:
    """(epoch, ordinal) of the `accumulate` x `batch` samples that worker `rank` reads at `step` (from 0).

    Each epoch is a seeded permutation of the `count` ordinals; epochs follow one another without a gap,
    so a batch may cross the border. A step takes the next `world_size` x `accumulate` x `batch` samples and
    a worker a contiguous part of them: the samples of a step do not depend on how many workers share it.
    """
    assert count > 0
    assert 0 <= rank < world_size
    mine = batch * accumulate
    start = (step * world_size + rank) * mine
    places = (divmod(position, count) for position in range(start, start + mine))
    return [(epoch, int(_permutation(count, seed, epoch, grouping)[place])) for epoch, place in places]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int, grouping: Grouping | None) -> NDArray[np.int64]:
    # RandomState, not default_rng: numpy promises that its stream never changes (NEP 19).
    random = np.random.RandomState([seed, epoch])
    order = random.permutation(count)
    if grouping:
        order = grouping.of(order, random)
    order.flags.writeable = False  # every caller gets the same array
    return order
