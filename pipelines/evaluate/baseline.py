"""Compare a report with an earlier one, query by query. Knows nothing of searching, answering or judging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, FiniteFloat, ValidationError

from pipelines.core.errors import UsageError
from pipelines.evaluate import metrics
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import Measured, by_queries

MAX_BASELINE_BYTES = 512 * 2**20
LOWER_IS_BETTER = ("mean_rank",)
_ROUNDING = 1e-9
"""Sums of another processor may differ in their last digits: that is no fall."""


class _Figures(BaseModel):
    id: str
    metrics: dict[str, FiniteFloat]


class Baseline(BaseModel):
    """What is read of an earlier `--json` file. `instruments`: what measured, by the first letters of its
    measures' names; figures of two different ones are not compared."""

    per_query: list[_Figures]
    instruments: dict[str, str] = {}


class Named(Protocol):
    @property
    def id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Change:
    """A measure's means before and now over the queries of both runs, and the interval of the difference.

    `queries` have the measure in both runs. `fell`: it became worse, and the interval does not reach 0.
    """

    queries: int
    before: float
    now: float
    difference: float
    low: float
    high: float
    fell: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """`queries` stand in both runs; `only_before` and `only_now` count the others, which are left out, and so
    are the measures `not_compared`, which one of the runs does not have or took in another way."""

    queries: int
    only_before: int
    only_now: int
    metrics: Mapping[str, Change]
    not_compared: tuple[str, ...]

    @property
    def fallen(self) -> tuple[str, ...]:
        return tuple(name for name, change in self.metrics.items() if change.fell)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_baseline(file: Path) -> Baseline:
    """Raises UsageError for what is not an object that `mmrag evaluate ... --json` printed."""
    try:
        with file.open("rb") as stream:
            body = stream.read(MAX_BASELINE_BYTES + 1)
    except OSError as exc:
        raise UsageError(f"--baseline {file}: {exc.strerror}") from exc
    if len(body) > MAX_BASELINE_BYTES:
        raise UsageError(f"--baseline {file}: has more than the {MAX_BASELINE_BYTES:,} bytes allowed")
    try:
        return Baseline.model_validate_json(body)
    except ValidationError as exc:
        problem = exc.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise UsageError(
            f"--baseline {file}: {field + ': ' if field else ''}{problem['msg']}; "
            "wanted what mmrag evaluate ... --json printed"
        ) from exc


def require_common(queries: Iterable[Named], baseline: Baseline) -> None:
    """Raise UsageError when the baseline has none of the queries: known before they are asked."""
    earlier = {query.id for query in baseline.per_query}
    if not any(query.id in earlier for query in queries):
        raise UsageError("--baseline: has none of these queries")


def compare(
    queries: Sequence[Measured],
    baseline: Baseline,
    config: EvaluateConfig,
    instruments: Mapping[str, str] = MappingProxyType({}),
) -> Comparison:
    """Raises UsageError when the runs have no query or no measure in common."""
    require_common(queries, baseline)
    earlier = {query.id: query.metrics for query in baseline.per_query}
    common = [query for query in queries if query.id in earlier]
    prefixes = {*instruments, *baseline.instruments}
    changed = tuple(one for one in prefixes if instruments.get(one) != baseline.instruments.get(one))
    shared = [
        [name for name in query.metrics if name in earlier[query.id] and not name.startswith(changed)]
        for query in common
    ]
    found: dict[str, Change] = {}
    for names, rows in by_queries(shared):
        pairs = [(common[row].metrics, earlier[common[row].id]) for row in rows]
        found |= changes(names, pairs, config)
    if not found:
        raise UsageError("--baseline: has none of these measures; measure in the same way (-k, judge)")
    return Comparison(
        queries=len(common),
        only_before=len(earlier) - len(common),
        only_now=len(queries) - len(common),
        metrics=found,
        not_compared=tuple(sorted((_measures(queries) | _measures(baseline.per_query)) - set(found))),
    )


def changes(
    names: Sequence[str],
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    config: EvaluateConfig,
) -> dict[str, Change]:
    """Of each measure, by `pairs`: a query's figures now, and those before."""
    now, before = (np.array([[pair[side][name] for name in names] for pair in pairs]) for side in (0, 1))
    ends = metrics.paired_bootstrap(now, before, config.confidence, config.resamples, config.seed)
    means = before.mean(axis=0), now.mean(axis=0)
    rows = zip(names, *(column.tolist() for column in (*means, *ends)), strict=True)
    return {
        name: Change(len(pairs), was, has, difference, low, high, _fell(name, low, high))
        for name, was, has, difference, low, high in rows
    }


def _measures(queries: Iterable[Measured]) -> set[str]:
    return {name for query in queries for name in query.metrics}


def _fell(name: str, low: float, high: float) -> bool:
    return low > _ROUNDING if name.startswith(LOWER_IS_BETTER) else high < -_ROUNDING
