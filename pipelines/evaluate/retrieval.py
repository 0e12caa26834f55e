"""Ask an index judged queries, and measure what it finds: the hits, and each branch's own ranking.

The hits are those of `mmrag search`, as many as its branches are asked for. A branch's own ranking is what it
would give alone, chunks crediting their pictures as in fusion; a branch that failed found nothing, which is
counted. Ablations stand beside them, paired query by query with the hits: the hits without each branch, and
what other ways to fuse make of the same runs. Judgements of documents count a document where its first hit
stands: 50 hits can be fewer documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from pipelines.core.errors import BadImage, UsageError
from pipelines.core.retriever import MAX_K, Branch, BranchRun, Query, Step
from pipelines.core.types import Hit, SearchResult
from pipelines.evaluate import metrics
from pipelines.evaluate.baseline import Change, changes
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import OVERALL, Group, group, groups
from pipelines.evaluate.metrics import Floats
from pipelines.evaluate.queries import JudgedQuery

DEFAULT_CUTOFFS = (1, 5, 10, 20)


class Searcher(Protocol):
    """What is asked of a Retriever."""

    def run_branches(self, query: Query) -> dict[Step, BranchRun]: ...

    def fused(self, query: Query, runs: Mapping[Step, BranchRun]) -> SearchResult: ...


@dataclass(frozen=True, slots=True)
class Rankings:
    """A query's rankings as grades, best first: of the hits, of each branch alone, and of each ablation: the
    hits without a branch, where others are left, or fused in another way."""

    judged: JudgedQuery
    hits: tuple[float, ...]
    branches: Mapping[Branch, tuple[float, ...]]
    ablations: Mapping[str, tuple[float, ...]]
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ablation:
    """What becomes of the measures where the system has less or another thing: `before` is as it is, `now` is
    the ablation."""

    queries: int
    metrics: Mapping[str, Change]


@dataclass(frozen=True, slots=True)
class Also:
    """Measures of queries, by their ids, that need no search; `instruments` as in `Report`."""

    metrics: Mapping[str, Mapping[str, float]]
    instruments: Mapping[str, str]


NOTHING_ELSE = Also({}, {})


@dataclass(frozen=True, slots=True)
class QueryFigures:
    id: str
    language: str
    degraded: tuple[str, ...]
    metrics: Mapping[str, float]
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """Names are `recall@10`, and `mrr@50` where 50 is the depth of the rankings. `left_out` counts queries
    without anything relevant, `degraded` the queries that a branch failed, by what it said. `instruments`:
    the model behind a measure, by the first letters of its name."""

    depth: int
    left_out: int
    overall: Group
    by_language: Mapping[str, Group]
    by_branch: Mapping[Branch, Group]
    ablations: Mapping[str, Ablation]
    instruments: Mapping[str, str]
    degraded: Mapping[str, int]
    per_query: tuple[QueryFigures, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ranking_depth(cutoffs: Sequence[int], candidates: int) -> int:
    """How many hits to ask for: so many that the branches are asked for no more than by `mmrag search`.

    Raises UsageError for cut-offs out of bounds.
    """
    if not cutoffs or not all(1 <= k <= MAX_K for k in cutoffs):
        raise UsageError(f"-k must be from 1 to {MAX_K}")
    return max(*cutoffs, candidates)


def evaluate(
    queries: Sequence[JudgedQuery],
    searcher: Searcher,
    cutoffs: Sequence[int],
    depth: int,
    config: EvaluateConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    otherwise: Mapping[str, Searcher] = MappingProxyType({}),
    also: Also = NOTHING_ELSE,
) -> Report:
    """`otherwise`: searchers that fuse the same runs in other ways, by the ablation's name.

    Raises UsageError for a picture that cannot be read or when nothing is relevant to any query, and
    StoreUnavailable when all branches of a query fail."""
    judged = [query for query in queries if query.relevant]
    if not judged:
        raise UsageError("no query names anything relevant: there is nothing to measure")
    rankings = []
    for done, query in enumerate(judged):
        on_progress(done, len(judged))
        rankings.append(_ask(query, searcher, depth, otherwise))
    on_progress(len(judged), len(judged))
    return report(rankings, len(queries) - len(judged), cutoffs, depth, config, also)


def report(
    rankings: Sequence[Rankings],
    left_out: int,
    cutoffs: Sequence[int],
    depth: int,
    config: EvaluateConfig,
    also: Also = NOTHING_ELSE,
) -> Report:
    """The figures of rankings that are there, one at least."""
    queries = [one.judged for one in rankings]
    values = measure(queries, [one.hits for one in rankings], cutoffs, depth)
    per_query = tuple(
        replace(one, metrics={**one.metrics, **also.metrics.get(one.id, {})})
        for one in _query_figures(rankings, values)
    )
    by_branch = {}
    for branch in dict.fromkeys(branch for one in rankings for branch in one.branches):
        asked = [one for one in rankings if branch in one.branches]
        found = [one.branches[branch] for one in asked]
        alone = measure([one.judged for one in asked], found, cutoffs, depth)
        by_branch[branch] = group(_query_figures(asked, alone), config)
    by_language = groups(per_query, config)
    return Report(
        depth=depth,
        left_out=left_out,
        overall=by_language.pop(OVERALL),
        by_language=by_language,
        by_branch=by_branch,
        ablations={
            name: _ablation(name, rankings, per_query, cutoffs, depth, config)
            for name in dict.fromkeys(name for one in rankings for name in one.ablations)
        },
        instruments=also.instruments,
        degraded=dict(Counter(message for one in rankings for message in one.degraded)),
        per_query=per_query,
    )


def _ablation(
    name: str,
    rankings: Sequence[Rankings],
    per_query: Sequence[QueryFigures],
    cutoffs: Sequence[int],
    depth: int,
    config: EvaluateConfig,
) -> Ablation:
    """Over the queries that have it: those with the branch and others."""
    rows = [row for row, one in enumerate(rankings) if name in one.ablations]
    asked = [rankings[row] for row in rows]
    values = measure([one.judged for one in asked], [one.ablations[name] for one in asked], cutoffs, depth)
    ablated = _query_figures(asked, values)
    pairs = [(now.metrics, per_query[row].metrics) for now, row in zip(ablated, rows, strict=True)]
    return Ablation(len(rows), changes(list(values), pairs, config))


def _ask(judged: JudgedQuery, searcher: Searcher, depth: int, otherwise: Mapping[str, Searcher]) -> Rankings:
    query = judged.query(depth)
    try:
        runs = searcher.run_branches(query)
    except BadImage as exc:
        raise UsageError(f"{judged.where}: {exc}") from exc
    together = searcher.fused(query, runs)
    alone = {
        branch: SearchResult(()) if run.failure else searcher.fused(query, {branch: run})
        for branch, run in runs.items()
        if branch != "reading"
    }
    others = {f"without {branch}": _without(branch, runs) for branch in alone}
    ablations = {
        name: searcher.fused(query, left)
        for name, left in others.items()
        if any(not run.failure for run in left.values())
    } | {name: other.fused(query, runs) for name, other in otherwise.items() if len(runs) > 1}
    said = [result.degraded for result in (together, *alone.values())]
    return Rankings(
        judged,
        grades(together.hits, judged),
        {branch: grades(result.hits, judged) for branch, result in alone.items()},
        {name: grades(result.hits, judged) for name, result in ablations.items()},
        tuple(dict.fromkeys(message for messages in said for message in messages)),
    )


def _without(branch: Branch, runs: Mapping[Step, BranchRun]) -> dict[Step, BranchRun]:
    """The aligner goes with `text_to_image`, whose place it takes; without `image_to_image` it has none of
    the pictures that only that one found."""
    gone = {branch, "aligner"} if branch == "text_to_image" else {branch}
    left = {other: run for other, run in runs.items() if other not in gone}
    if branch == "image_to_image" and "aligner" in left:
        own = {found.part.key for found in runs["text_to_image"].found}
        kept = [found for found in left["aligner"].found if found.part.key in own]
        left["aligner"] = replace(left["aligner"], found=kept)
    return left


def grades(hits: Sequence[Hit], judged: JudgedQuery) -> tuple[float, ...]:
    """The grade of each hit, or of each document at its first hit; 0 for one that is not judged. Equal ids of
    two tenants are two."""
    return tuple(map(judged.grade, dict.fromkeys(map(judged.name, hits))))


def measure(
    queries: Sequence[JudgedQuery],
    rankings: Sequence[Sequence[float]],
    cutoffs: Sequence[int],
    depth: int,
) -> dict[str, Floats]:
    """Every measure of N rankings, each (N,), by name."""
    grades_NK = metrics.padded(rankings, depth)
    relevant_N = np.array([len(query.relevant) for query in queries])
    best_first = [sorted(query.relevant.values(), reverse=True) for query in queries]
    ideal_NK = metrics.padded(best_first, depth)
    ks = sorted(set(cutoffs))
    return {
        **{f"recall@{k}": metrics.recall(grades_NK, relevant_N, k) for k in ks},
        **{f"success@{k}": metrics.success(grades_NK, k) for k in ks},
        **{f"ndcg@{k}": metrics.ndcg(grades_NK, ideal_NK, k) for k in ks},
        f"mrr@{depth}": metrics.reciprocal_rank(grades_NK),
        f"mean_rank@{depth}": metrics.first_rank(grades_NK),
    }


def _query_figures(rankings: Sequence[Rankings], values: Mapping[str, Floats]) -> tuple[QueryFigures, ...]:
    return tuple(
        QueryFigures(
            one.judged.id,
            one.judged.language,
            one.degraded,
            {measured: float(column[row]) for measured, column in values.items()},
            one.judged.digest,
        )
        for row, one in enumerate(rankings)
    )
