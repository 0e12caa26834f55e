"""Compare a report with an earlier one, query by query. Knows nothing of searching, answering or judging."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, FiniteFloat, ValidationError, field_validator

from pipelines.core.complaints import complaint
from pipelines.core.errors import UsageError
from pipelines.evaluate import metrics
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import Measured, Spoken, by_queries

MAX_BASELINE_BYTES = 512 * 2**20
LOWER_IS_BETTER = ("mean_rank", "cross_modal_gap", "in_modal_gap")
_ROUNDING = 1e-9
"""Sums of another processor may differ in their last digits: that is no fall."""


class _Figures(BaseModel):
    id: str
    metrics: dict[str, FiniteFloat]
    digest: str = ""


class Baseline(BaseModel):
    """What is read of an earlier `--json` file. `instruments`: what measured, by the first letters of its
    measures' names; figures of two different ones are not compared. `system`: what was measured. Queries of a
    file of an earlier version have no digests."""

    per_query: list[_Figures]
    instruments: dict[str, str] = {}
    system: dict[str, Any] = {}

    @field_validator("per_query")
    @classmethod
    def _stand_once(cls, queries: list[_Figures]) -> list[_Figures]:
        for name, count in Counter(query.id for query in queries).items():
            if count > 1:
                raise ValueError(f"{count} of them have the id {name!r}")
        return queries


class Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def digest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Change:
    """A measure's means before and now over the queries of both runs, and the interval of the difference.

    `queries` have the measure in both runs. `fell`: it became worse, and the interval does not reach 0.
    `too_few`: so it is, but fewer queries differ than `least_pairs`, which is no fall.
    """

    queries: int
    before: float
    now: float
    difference: float
    low: float
    high: float
    fell: bool
    too_few: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """`queries` stand in both runs as they are; left out, and counted, are those that stand in one alone
    (`only_before`, `only_now`) and those that were `edited` in between: what is asked, or what is right.

    `by_language` is empty where there is one language. `not_compared`: the measures that were not, with why.
    `vanished` are those of the baseline that this run has in no form, and no other instrument for. `system`:
    by name what was measured before and now, where that differs.
    """

    queries: int
    only_before: int
    only_now: int
    edited: int
    metrics: Mapping[str, Change]
    by_language: Mapping[str, Mapping[str, Change]]
    not_compared: Mapping[str, str]
    vanished: tuple[str, ...]
    system: Mapping[str, tuple[Any, Any]]

    @property
    def fallen(self) -> tuple[str, ...]:
        """Of all queries, then of a language."""
        return (
            *(name for name, change in self.metrics.items() if change.fell),
            *(
                f"{name} ({language})"
                for language, found in self.by_language.items()
                for name, change in found.items()
                if change.fell
            ),
        )

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
        raise UsageError(
            f"--baseline {file}: {complaint(exc)}; this is not what mmrag evaluate ... --json printed"
        ) from exc


def require_common(queries: Iterable[Named], baseline: Baseline) -> None:
    """Raise UsageError when the baseline has none of the queries as they are: known before they are asked."""
    earlier = {query.id: query for query in baseline.per_query}
    there = [query for query in queries if query.id in earlier]
    if not there:
        raise UsageError("--baseline: has none of these queries")
    if all(_was_edited(query, earlier) for query in there):
        raise UsageError("--baseline: all that it has of these queries were edited since; make it anew")


def compare(
    queries: Sequence[Spoken],
    baseline: Baseline,
    config: EvaluateConfig,
    instruments: Mapping[str, str] = MappingProxyType({}),
    system: Mapping[str, Any] = MappingProxyType({}),
) -> Comparison:
    """Overall and by language. Without a measure in common its `metrics` are empty."""
    told = {query.id: query for query in baseline.per_query}
    earlier = {name: query.metrics for name, query in told.items()}
    prefixes = {*instruments, *baseline.instruments}
    others = {one for one in prefixes if instruments.get(one) != baseline.instruments.get(one)}
    replaced = others & set(instruments)
    there = [query for query in queries if query.id in told]
    common = [query for query in there if not _was_edited(query, told)]
    found = _compared(common, earlier, others, config)
    languages = sorted({query.language for query in common})
    spoken = {one: [query for query in common if query.language == one] for one in languages}
    before, now = _measures(baseline.per_query), _measures(queries)
    return Comparison(
        queries=len(common),
        only_before=len(told) - len(there),
        only_now=len(queries) - len(there),
        edited=len(there) - len(common),
        metrics=found,
        by_language={name: _compared(some, earlier, others, config) for name, some in spoken.items()}
        if len(spoken) > 1
        else {},
        not_compared={
            name: _why(name, before, now, baseline.instruments, instruments)
            for name in sorted((before | now) - set(found))
        },
        vanished=tuple(sorted(_vanished(before, now, replaced))),
        system=_differences(baseline.system, system),
    )


def _was_edited(query: Named, earlier: Mapping[str, _Figures]) -> bool:
    """An earlier file without digests does not tell."""
    return earlier[query.id].digest not in ("", query.digest)


def _compared(
    queries: Sequence[Measured],
    earlier: Mapping[str, Mapping[str, float]],
    other_instruments: Collection[str],
    config: EvaluateConfig,
) -> dict[str, Change]:
    """The measures that a query has in both runs, but those that begin as `other_instruments` do."""
    shared = [
        [
            name
            for name in query.metrics
            if name in earlier[query.id] and not name.startswith(tuple(other_instruments))
        ]
        for query in queries
    ]
    found: dict[str, Change] = {}
    for names, rows in by_queries(shared):
        pairs = [(queries[row].metrics, earlier[queries[row].id]) for row in rows]
        found |= changes(names, pairs, config)
    return found


def _vanished(before: set[str], now: set[str], replaced: Collection[str]) -> set[str]:
    """`recall@5` has not where there is a recall@10: it is another cut-off. Nor has what begins as one of
    `replaced` does: another instrument measures it now. One that is gone leaves its measures gone."""
    kinds = {name.partition("@")[0] for name in now}
    return {
        name
        for name in before
        if name.partition("@")[0] not in kinds and not name.startswith(tuple(replaced))
    }


def _why(name: str, before: set[str], now: set[str], was: Mapping[str, str], has: Mapping[str, str]) -> str:
    if name not in now:
        return "only the baseline has it"
    if name not in before:
        return "only this run has it"
    for prefix in was.keys() | has.keys():
        if name.startswith(prefix) and was.get(prefix) != has.get(prefix):
            return f"by {has.get(prefix, 'another')}, in the baseline by {was.get(prefix, 'another')}"
    return "no query has it in both runs"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of what both runs tell: of saved answers, or in an earlier file, there is less."""
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def least_pairs(confidence: float) -> int:
    """The number of queries that differ from which on a fall can be told from chance: with n, all of them
    become worse by chance alone in 2^(1−n) of the cases (the sign test, both sides, which leaves ties out),
    1 − confidence at most. The bootstrap does not know: of one query its interval has no width."""
    return math.ceil(1 - math.log2(1 - confidence))


def changes(
    names: Sequence[str],
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    config: EvaluateConfig,
) -> dict[str, Change]:
    """Of each measure, by `pairs`: a query's figures now, and those before."""
    now, before = (np.array([[pair[side][name] for name in names] for pair in pairs]) for side in (0, 1))
    ends = metrics.paired_bootstrap(now, before, config.confidence, config.resamples, config.seed)
    means = before.mean(axis=0), now.mean(axis=0)
    differ = (np.abs(now - before) > _ROUNDING).sum(axis=0)
    rows = zip(names, *(column.tolist() for column in (*means, *ends, differ)), strict=True)
    found = {}
    for name, was, has, difference, low, high, differing in rows:
        enough = differing >= least_pairs(config.confidence)
        worse = _is_worse(name, low, high)
        found[name] = Change(
            len(pairs), was, has, difference, low, high, worse and enough, worse and not enough
        )
    return found


def _measures(queries: Iterable[Measured]) -> set[str]:
    return {name for query in queries for name in query.metrics}


def _is_worse(name: str, low: float, high: float) -> bool:
    return low > _ROUNDING if name.startswith(LOWER_IS_BETTER) else high < -_ROUNDING
