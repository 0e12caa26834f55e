"""How well an answer's boxes lie on the reference's. Pure: knows boxes, and their pictures by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.grounding import Box, iou

THRESHOLD = 0.5
"""As in RefCOCO's and Flickr30k Entities' figures."""


@dataclass(frozen=True, slots=True)
class OnPicture:
    """A box in pixels of the upright original of a picture: "query", or a hit's id."""

    picture: str
    box: Box


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of one question, each from 0 to 1.

    `iou`: over matched pairs, summed and divided by the larger number of boxes, so that a box too many counts
    as one that is missing. `precision` and `recall`: the share of the answer's boxes, and of the reference's,
    that are matched with an IoU of .5 at least. With one box each all is as usual: the IoU, and whether it is
    .5.
    """

    iou: float
    precision: float
    recall: float


def overlap(said: Sequence[OnPicture], wanted: Sequence[OnPicture], unusable: int = 0) -> Overlap:
    """`wanted` is not empty. `unusable` counts what was said as a box and is none: it matches nothing. A box
    on another picture than its reference has IoU 0 with it."""
    assert wanted, "there is nothing to compare with"
    many = len(said) + unusable
    if not said:
        return Overlap(0.0, 0.0, 0.0)
    ious = np.array([[_iou(one, other) for other in wanted] for one in said])
    pairs = [ious[row, column] for row, column in best_matching(ious)]
    matched = sum(value >= THRESHOLD for value in pairs)
    return Overlap(float(sum(pairs)) / max(many, len(wanted)), matched / many, matched / len(wanted))


def _iou(one: OnPicture, other: OnPicture) -> float:
    return iou(one.box, other.box) if one.picture == other.picture else 0.0


def best_matching(values_NM: NDArray[np.float64]) -> list[tuple[int, int]]:
    """min(N, M) pairs of a row and a column, each in one pair at most, with the largest sum of values.

    The assignment problem by shortest augmenting paths (Jonker and Volgenant, Computing 1987).
    """
    if values_NM.shape[0] > values_NM.shape[1]:
        return [(row, column) for column, row in best_matching(values_NM.T)]
    rows, columns = values_NM.shape
    cost = -values_NM
    of_row, of_column = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for new in range(rows):
        shortest, before = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        row, reached, column = new, 0.0, -1
        visited = [new]
        while True:
            through = reached + cost[row] - of_row[row] - of_column
            better = ~done & (through < shortest)
            shortest[better], before[better] = through[better], row
            column = int(np.argmin(np.where(done, np.inf, shortest)))
            reached, done[column] = shortest[column], True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            visited.append(row)
        for place in visited:
            at = np.flatnonzero(row_of == place)
            of_row[place] += reached - (shortest[at[0]] if len(at) else 0.0)
        of_column[done] -= reached - shortest[done]
        while column >= 0:
            row = int(before[column])
            (previous,) = np.flatnonzero(row_of == row) if row != new else (np.int64(-1),)
            row_of[column], column = row, int(previous)
    return sorted((int(row), column) for column, row in enumerate(row_of) if row >= 0)
