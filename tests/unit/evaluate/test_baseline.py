"""An earlier report against today's, query by query."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.errors import UsageError
from pipelines.evaluate.baseline import Baseline, compare, read_baseline, require_common
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import Estimate, Group
from pipelines.evaluate.retrieval import QueryFigures, Report

CONFIG = EvaluateConfig(resamples=500)


def report(**figures: list[float]) -> Report:
    """A report of queries q0, q1, … with these values of each measure (`_at_` for `@`)."""
    named = {name.replace("_at_", "@"): values for name, values in figures.items()}
    count = len(next(iter(named.values())))
    per_query = tuple(
        QueryFigures(f"q{n}", "en", (), {name: values[n] for name, values in named.items()})
        for n in range(count)
    )
    overall = Group(count, {name: Estimate(float(np.mean(v)), 0, 1, len(v)) for name, v in named.items()})
    return Report(50, 0, overall, {"en": overall}, {}, {}, {}, {}, per_query)


def saved(made: Report, tmp_path: Path) -> Path:
    file = tmp_path / "before.json"
    file.write_text(json.dumps(made.as_dict()), "utf-8")
    return file


def test_a_clear_fall_is_one_and_noise_is_none(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    steady, noise = random.random(100), random.normal(0, 0.1, 100)
    noise -= noise.mean()
    before = report(recall_at_5=list(steady), ndcg_at_5=list(steady))
    now = report(recall_at_5=list(steady - 0.1), ndcg_at_5=list(steady + noise))
    comparison = compare(now.per_query, read_baseline(saved(before, tmp_path)), CONFIG)
    assert comparison.fallen == ("recall@5",)
    change = comparison.metrics["recall@5"]
    assert change.difference == pytest.approx(-0.1)
    assert change.before - change.now == pytest.approx(0.1)
    assert change.high < 0


def test_a_higher_rank_number_is_a_fall_and_a_lower_one_is_not(tmp_path: Path) -> None:
    before = report(mean_rank_at_50=[2.0] * 30)
    worse, better = report(mean_rank_at_50=[3.0] * 30), report(mean_rank_at_50=[1.0] * 30)
    baseline = read_baseline(saved(before, tmp_path))
    assert compare(worse.per_query, baseline, CONFIG).fallen == ("mean_rank@50",)
    assert compare(better.per_query, baseline, CONFIG).fallen == ()


def test_the_same_run_did_not_fall_and_rounding_is_no_fall(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random(20)
    same = report(ndcg_at_5=list(values), mean_rank_at_50=list(50 * values))
    baseline = read_baseline(saved(same, tmp_path))
    assert {change.difference for change in compare(same.per_query, baseline, CONFIG).metrics.values()} == {0}
    rounded = report(ndcg_at_5=list(values - 1e-15), mean_rank_at_50=list(50 * values + 1e-13))
    assert compare(rounded.per_query, baseline, CONFIG).fallen == ()


def test_only_common_queries_and_measures_are_compared(tmp_path: Path) -> None:
    before = report(recall_at_5=[1.0, 1.0, 1.0], recall_at_7=[1.0, 1.0, 1.0])
    now = report(recall_at_5=[0.0, 1.0], recall_at_3=[0.0, 1.0])  # another cut-off is no measure that is gone
    comparison = compare(now.per_query, read_baseline(saved(before, tmp_path)), CONFIG)
    assert (comparison.queries, comparison.only_before, comparison.only_now) == (2, 1, 0)
    assert list(comparison.metrics) == ["recall@5"]
    assert comparison.metrics["recall@5"].before == 1  # of the two, not of the three
    assert comparison.not_compared == {
        "recall@3": "only this run has it",
        "recall@7": "only the baseline has it",
    }
    assert comparison.vanished == ()


def spoken(**figures: list[tuple[str, float]]) -> tuple[QueryFigures, ...]:
    """Queries of these languages, with these values of each measure."""
    return tuple(
        QueryFigures(f"{name}{n}", language, (), {name: value})
        for name, found in figures.items()
        for n, (language, value) in enumerate(found)
    )


def baseline_of(queries: Sequence[QueryFigures], **fields: Any) -> Baseline:
    return Baseline.model_validate({"per_query": [asdict(query) for query in queries], **fields})


@pytest.mark.parametrize(("confidence", "least"), [(0.95, 6), (0.99, 8), (0.5, 2)])
def test_a_fall_takes_as_many_queries_as_tell_it_from_chance(confidence: float, least: int) -> None:
    config = EvaluateConfig(resamples=200, confidence=confidence)
    for count in (1, least - 1, least):
        before, now = report(ndcg_at_5=[0.5] * count), report(ndcg_at_5=[0.49] * count)
        found = compare(now.per_query, baseline_of(before.per_query), config)
        change = found.metrics["ndcg@5"]
        assert change.high < 0
        assert (change.fell, change.too_few) == (count >= least, count < least)
        assert bool(found.fallen) == (count >= least)


def test_queries_that_stay_as_they_were_do_not_make_a_fall_of_a_few() -> None:
    """Four of a hundred worse, none better: the sign test has p = .125."""
    before = spoken(right=[("en", 1.0)] * 100)
    for worse, fell in ((4, False), (8, True)):
        now = spoken(right=[("en", 0.0)] * worse + [("en", 1.0)] * (100 - worse))
        change = compare(now, baseline_of(before), CONFIG).metrics["right"]
        assert change.high < 0
        assert (change.fell, change.too_few) == (fell, not fell)


def test_a_fall_in_one_language_is_one() -> None:
    before = spoken(right=[("en", 0.5)] * 60 + [("zh", 1.0)] * 8)
    now = spoken(right=[("en", 0.5 + (-1) ** n * 0.5) for n in range(60)] + [("zh", 0.0)] * 8)
    found = compare(now, baseline_of(before), CONFIG)
    assert not found.metrics["right"].fell  # noise of the many hides it
    assert found.fallen == ("right (zh)",)
    assert found.by_language["zh"]["right"].difference == -1
    assert compare(before, baseline_of(before), CONFIG).fallen == ()


def test_one_language_is_not_told_twice() -> None:
    queries = spoken(right=[("en", 1.0)] * 8)
    assert compare(queries, baseline_of(queries), CONFIG).by_language == {}


@pytest.fixture
def judged() -> tuple[QueryFigures, ...]:
    """Eight queries that words measure, one that a judge does, and one whose citations are checked."""
    return spoken(right=[("en", 1.0)] * 8, judge_a=[("en", 5.0)], citation_b=[("en", 1.0)])


def test_a_measure_that_is_gone_is_told_and_so_is_one_whose_instrument_is_gone(
    judged: tuple[QueryFigures, ...],
) -> None:
    earlier = baseline_of(judged, instruments={"judge_": "m", "citation_": "words"})
    found = compare(judged[:8], earlier, CONFIG, {"citation_": "words"})
    assert found.vanished == ("citation_b", "judge_a")
    assert (found.fallen, found.only_before) == ((), 2)
    assert found.not_compared["judge_a"] == "only the baseline has it"


def test_a_measure_that_another_instrument_took_over_is_not_gone(judged: tuple[QueryFigures, ...]) -> None:
    earlier = baseline_of(judged, instruments={"judge_": "m", "citation_": "words"})
    found = compare(judged[:8], earlier, CONFIG, {"judge_": "n", "citation_": "n"})
    assert found.vanished == ()
    assert set(found.not_compared) == {"citation_b", "judge_a"}


def test_what_was_measured_is_told_where_it_differs() -> None:
    queries = spoken(right=[("en", 1.0)])
    earlier = baseline_of(queries, system={"search.candidates": 50, "encoder.kind": "lite", "old": 1})
    found = compare(queries, earlier, CONFIG, system={"search.candidates": 30, "encoder.kind": "lite"})
    assert found.system == {"search.candidates": (50, 30)}
    assert compare(queries, baseline_of(queries), CONFIG, system={"search.candidates": 30}).system == {}


def edited(queries: Sequence[QueryFigures], digest: str) -> tuple[QueryFigures, ...]:
    return tuple(replace(query, digest=digest) for query in queries)


def test_a_query_that_was_edited_is_not_compared() -> None:
    queries = spoken(right=[("en", 1.0)] * 10)
    before = edited(queries, "a")
    worse = [replace(query, metrics={"right": 0.0}) for query in before]
    now = [*edited(worse[:7], "b"), *worse[7:9], replace(worse[9], id="new")]
    found = compare(now, baseline_of(before), CONFIG)
    assert (found.queries, found.edited, found.only_before, found.only_now) == (2, 7, 1, 1)
    assert found.metrics["right"].queries == 2
    assert found.fallen == ()
    assert compare(worse, baseline_of(before), CONFIG).fallen == ("right",)


def test_a_baseline_of_an_earlier_version_has_no_digests_and_is_compared() -> None:
    queries = spoken(right=[("en", 1.0)] * 8)
    rows = [{"id": query.id, "metrics": dict(query.metrics)} for query in queries]
    found = compare(edited(queries, "a"), Baseline.model_validate({"per_query": rows}), CONFIG)
    assert (found.queries, found.edited) == (8, 0)


def test_a_baseline_of_which_all_was_edited_is_refused() -> None:
    queries = spoken(right=[("en", 1.0)] * 2)
    baseline = baseline_of(edited(queries, "a"))
    with pytest.raises(UsageError, match="were edited since; make it anew"):
        require_common(edited(queries, "b"), baseline)
    require_common([*edited(queries[:1], "b"), *edited(queries[1:], "a")], baseline)


def test_a_baseline_without_anything_in_common_is_refused(tmp_path: Path) -> None:
    baseline = read_baseline(saved(report(recall_at_5=[1.0]), tmp_path))
    assert compare(report(recall_at_7=[1.0]).per_query, baseline, CONFIG).metrics == {}
    (tmp_path / "empty.json").write_text('{"per_query": []}')
    empty = read_baseline(tmp_path / "empty.json")
    with pytest.raises(UsageError, match="none of these queries"):
        require_common(report(recall_at_5=[1.0]).per_query, empty)
    require_common(report(recall_at_5=[1.0]).per_query, baseline)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("{", "no JSON"),
        ('{"hits": []}', "per_query: is missing; this is not what"),
        (
            '{"per_query": [{"id": "q1", "metrics": {"recall@5": null}}]}',
            "per_query.0.metrics.recall@5: wanted a number;",
        ),
        (
            '{"per_query": [{"id": "q1", "metrics": {}}, {"id": "q1", "metrics": {"recall@5": 1}}]}',
            "per_query: 2 of them have the id 'q1'; this is not what",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, body: str, complaint: str) -> None:
    (tmp_path / "before.json").write_text(body)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_baseline(tmp_path / "before.json")
    assert str(caught.value).startswith(f"--baseline {tmp_path / 'before.json'}: ")
    with pytest.raises(UsageError, match="No such file"):
        read_baseline(tmp_path / "nowhere.json")
