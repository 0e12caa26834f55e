"""Boxes against the reference's: matching against every assignment, and figures by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from pipelines.core.grounding import Box
from pipelines.evaluate.boxes import OnPicture, Overlap, best_matching, overlap


def box(*xyxy: float, picture: str = "query") -> OnPicture:
    left, top, right, bottom = xyxy
    edges: Box = (left, top, right, bottom)
    return OnPicture(picture, edges)


SQUARE = box(0, 0, 10, 10)


def test_one_box_each_is_the_iou_and_whether_it_is_a_half() -> None:
    assert overlap([box(0, 0, 10, 10)], [SQUARE]) == Overlap(1, 1, 1)
    assert overlap([box(0, 0, 10, 5)], [SQUARE]) == Overlap(0.5, 1, 1)  # at the threshold
    found = overlap([box(5, 0, 15, 10)], [SQUARE])  # 50 of 150
    assert found == Overlap(pytest.approx(1 / 3), 0, 0)
    assert overlap([box(20, 20, 30, 30)], [SQUARE]) == Overlap(0, 0, 0)


def test_another_picture_is_another_place() -> None:
    assert overlap([box(0, 0, 10, 10, picture="doc#img-0")], [SQUARE]) == Overlap(0, 0, 0)


def test_no_box_is_wrong() -> None:
    assert overlap([], [SQUARE]) == Overlap(0, 0, 0)
    assert overlap([], [SQUARE], unusable=2) == Overlap(0, 0, 0)


def test_a_box_too_many_and_a_box_too_few_cost() -> None:
    far = box(50, 50, 60, 60)
    assert overlap([SQUARE, far], [SQUARE]) == Overlap(1 / 2, 1 / 2, 1)
    assert overlap([SQUARE], [SQUARE, far]) == Overlap(1 / 2, 1, 1 / 2)
    assert overlap([SQUARE], [SQUARE], unusable=1) == Overlap(1 / 2, 1 / 2, 1)
    # One reference is matched once: to say a box twice is no second find.
    assert overlap([SQUARE, SQUARE], [SQUARE, far]) == Overlap(1 / 2, 1 / 2, 1 / 2)


def test_the_matching_is_the_best_and_not_the_first() -> None:
    # Greedy would give .9 to the first row and leave .1 for the second.
    values = np.array([[0.9, 0.8], [0.85, 0.1]])
    assert best_matching(values) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 3), (3, 5), (5, 3), (6, 6)])
def test_the_matching_is_that_of_trying_all(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(sum(shape))
    for trial in range(40):
        values = random.random(shape)
        if trial % 2:
            values = np.where(values < 0.6, 0.0, np.round(values, 1))  # many ties, as of boxes apart
        wide = values if shape[0] <= shape[1] else values.T
        best = max(
            sum(wide[row, column] for row, column in enumerate(columns))
            for columns in permutations(range(wide.shape[1]), wide.shape[0])
        )
        pairs = best_matching(values)
        assert len(pairs) == min(shape)
        assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == min(shape)
        assert sum(values[pair] for pair in pairs) == pytest.approx(best)
