"""Which samples a worker reads at a step: a pure function. Knows nothing of files, torch or Ray."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def sample_order(
    count: int, seed: int, step: int, world_size: int, rank: int, batch: int, accumulate: int
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
    return [(epoch, int(_permutation(count, seed, epoch)[place])) for epoch, place in places]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # RandomState, not default_rng: numpy promises that its stream never changes (NEP 19).
    order = np.random.RandomState([seed, epoch]).permutation(count)
    order.flags.writeable = False  # every caller gets the same array
    return order
