from __future__ import annotations

import numpy as np

from pipelines.train.llava_order import Grouping, sample_order


def read(count: int, steps: int, world: int, batch: int, accumulate: int, seed: int = 0):
    return [
        place
        for step in range(steps)
        for rank in range(world)
        for place in sample_order(count, seed, step, world, rank, batch, accumulate)
    ]


def test_every_ordinal_comes_once_an_epoch_and_epochs_follow_without_a_gap():
    order = read(count=10, steps=5, world=1, batch=2, accumulate=3)  # 30 samples: three epochs
    assert [epoch for epoch, _ in order] == [0] * 10 + [1] * 10 + [2] * 10
    for epoch in range(3):
        assert sorted(ordinal for e, ordinal in order if e == epoch) == list(range(10))


def test_epochs_and_seeds_differ_in_order():
    first, second, other = (
        [ordinal for _, ordinal in sample_order(50, seed, step, 1, 0, 50, 1)]
        for seed, step in ((0, 0), (0, 1), (1, 0))
    )
    assert first != second
    assert first != other
    assert first != sorted(first)


def test_the_samples_of_a_step_do_not_depend_on_the_number_of_workers():
    alone = read(count=7, steps=4, world=1, batch=2, accumulate=4)
    assert read(count=7, steps=4, world=2, batch=2, accumulate=2) == alone
    assert read(count=7, steps=4, world=4, batch=2, accumulate=1) == alone
    assert read(count=7, steps=4, world=1, batch=8, accumulate=1) == alone


def test_a_step_is_the_same_whatever_was_asked_for_before():
    late = sample_order(9, 3, 40, 2, 1, 4, 2)
    assert sample_order(9, 3, 0, 2, 1, 4, 2) != late
    assert sample_order(9, 3, 40, 2, 1, 4, 2) == late


def test_the_order_is_pinned_for_resuming_with_a_later_version():
    assert sample_order(5, 0, 0, 1, 0, 5, 1) == [(0, 2), (0, 0), (0, 3), (0, 4), (0, 1)]


def test_a_batch_may_be_larger_than_the_data():
    assert [epoch for epoch, _ in sample_order(2, 0, 0, 1, 0, 5, 1)] == [0, 0, 1, 1, 2]


def test_grouped_batches_hold_like_lengths_and_every_sample_once():
    count, batch = 1000, 4
    lengths = np.random.RandomState(1).randint(10, 500, count)
    grouping = Grouping(lengths, batch)
    order = [
        ordinal
        for step in range(count // batch)
        for _, ordinal in sample_order(count, 7, step, 1, 0, batch, 1, grouping)
    ]
    assert sorted(order) == list(range(count))
    longest = lengths[np.array(order).reshape(-1, batch)].max(axis=1)
    assert longest.sum() * batch < 1.1 * lengths.sum()
    assert np.abs(np.diff(longest)).mean() > 50, "batches come in no order of length"


def test_grouping_changes_neither_with_the_spread_over_workers_nor_with_time():
    grouping = Grouping(np.arange(1000) % 37, 4)
    whole = sample_order(1000, 7, 90, 1, 0, 4, 2, grouping)
    halves = [sample_order(1000, 7, 90, 2, rank, 4, 1, grouping) for rank in range(2)]
    assert halves[0] + halves[1] == whole
    again = Grouping(np.arange(1000) % 37, 4)
    assert sample_order(1000, 7, 90, 1, 0, 4, 2, again) == whole
