"""Compare a report with an earlier one, query by query. Knows nothing of searching."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, FiniteFloat, ValidationError

from pipelines.core.errors import UsageError
from pipelines.evaluate import metrics
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.retrieval import QueryFigures, Report

MAX_BASELINE_BYTES = 512 * 2**20
LOWER_IS_BETTER = ("mean_rank",)
_ROUNDING = 1e-9
"""Sums of another processor may differ in their last digits: that is no fall."""


class _Figures(BaseModel):
    id: str
    metrics: dict[str, FiniteFloat]


class Baseline(BaseModel):
    """What is read of an earlier `--json` file."""

    per_query: list[_Figures]


@dataclass(frozen=True, slots=True)
class Change:
    """A measure's means before and now over the queries of both runs, and the interval of the difference.

    `fell`: it became worse, and the interval does not reach 0.
    """

    before: float
    now: float
    difference: float
    low: float
    high: float
    fell: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """`queries` stand in both runs; `only_before` and `only_now` count the others, which are left out, and so
    are the measures `not_compared`, which one of the runs does not have."""

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
    """Raises UsageError for what is not an object that `mmrag evaluate retrieval --json` printed."""
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
            "wanted what mmrag evaluate retrieval --json printed"
        ) from exc


def require_common(queries: Iterable[JudgedQuery | QueryFigures], baseline: Baseline) -> None:
    """Raise UsageError when the baseline has none of the queries: known before they are asked."""
    earlier = {query.id for query in baseline.per_query}
    if not any(query.id in earlier for query in queries):
        raise UsageError("--baseline: has none of these queries")


def compare(report: Report, baseline: Baseline, config: EvaluateConfig) -> Comparison:
    """Raises UsageError when the runs have no query or no measure in common."""
    require_common(report.per_query, baseline)
    earlier = {query.id: query.metrics for query in baseline.per_query}
    common = [query for query in report.per_query if query.id in earlier]
    names = [name for name in report.overall.metrics if all(name in earlier[query.id] for query in common)]
    if not names:
        raise UsageError("--baseline: has none of these measures; give it the same -k")
    before = np.array([[earlier[query.id][name] for name in names] for query in common])
    now = np.array([[query.metrics[name] for name in names] for query in common])
    ends = metrics.paired_bootstrap(now, before, config.confidence, config.resamples, config.seed)
    means = before.mean(axis=0), now.mean(axis=0)
    rows = zip(names, *(column.tolist() for column in (*means, *ends)), strict=True)
    return Comparison(
        queries=len(common),
        only_before=len(earlier) - len(common),
        only_now=len(report.per_query) - len(common),
        metrics={
            name: Change(was, has, difference, low, high, _fell(name, low, high))
            for name, was, has, difference, low, high in rows
        },
        not_compared=tuple(sorted(_measures(report.per_query) ^ _measures(baseline.per_query))),
    )


def _measures(queries: Iterable[_Figures | QueryFigures]) -> set[str]:
    return {name for query in queries for name in query.metrics}


def _fell(name: str, low: float, high: float) -> bool:
    return low > _ROUNDING if name.startswith(LOWER_IS_BETTER) else high < -_ROUNDING
