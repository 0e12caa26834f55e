"""Values of measures, question by question -> means with intervals, overall and by language.

Knows nothing of what was measured. A measure need not fit every question: what has no value for one is left
out of that measure's mean, which says over how many questions it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipelines.evaluate import metrics
from pipelines.evaluate.config import EvaluateConfig

OVERALL = "overall"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `queries` queries, and the ends of its interval."""

    mean: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True, slots=True)
class Group:
    """Some queries' figures, by the measure's name."""

    queries: int
    metrics: Mapping[str, Estimate]


class Measured(Protocol):
    """A query with its figures."""

    @property
    def id(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...


class Spoken(Measured, Protocol):
    @property
    def language(self) -> str: ...

    @property
    def digest(self) -> str: ...


def group(queries: Sequence[Measured], config: EvaluateConfig) -> Group:
    """The figures of these queries. Measures that the same queries have share the draws of the bootstrap."""
    found: dict[str, Estimate] = {}
    for names, rows in by_queries([query.metrics for query in queries]):
        values_NM = np.array([[queries[row].metrics[name] for name in names] for row in rows])
        ends = metrics.bootstrap(values_NM, config.confidence, config.resamples, config.seed)
        for name, mean, low, high in zip(names, *(column.tolist() for column in ends), strict=True):
            found[name] = Estimate(mean, low, high, len(rows))
    return Group(len(queries), {name: found[name] for name in _names(queries)})


def groups(queries: Sequence[Spoken], config: EvaluateConfig) -> dict[str, Group]:
    """Of all queries, by the name `overall`, and of each language."""
    languages = sorted({query.language for query in queries})
    return {OVERALL: group(queries, config)} | {
        name: group([query for query in queries if query.language == name], config) for name in languages
    }


def measured_by(instruments: Mapping[str, str], measures: Iterable[str]) -> dict[str, str]:
    """What measured, by the names of its measures, those that there are. `instruments` are by the first
    letters of these."""
    known = list(measures)
    named = {prefix: [name for name in known if name.startswith(prefix)] for prefix in instruments}
    return {", ".join(names): instruments[prefix] for prefix, names in named.items() if names}


def by_queries(measures: Sequence[Iterable[str]]) -> list[tuple[list[str], tuple[int, ...]]]:
    """The measures that the same queries have, together, with the places of these queries in `measures`,
    which names each query's."""
    places: dict[str, list[int]] = {}
    for row, names in enumerate(measures):
        for name in names:
            places.setdefault(name, []).append(row)
    together: dict[tuple[int, ...], list[str]] = {}
    for name, rows in places.items():
        together.setdefault(tuple(rows), []).append(name)
    return [(names, rows) for rows, names in together.items()]


def _names(queries: Sequence[Measured]) -> list[str]:
    """In the order in which they are first met."""
    return list(dict.fromkeys(name for query in queries for name in query.metrics))
