"""An earlier report against today's, query by query."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.errors import UsageError
from pipelines.evaluate.baseline import compare, read_baseline, require_common
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
    return Report(50, 0, overall, {"en": overall}, {}, {}, {}, per_query)


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
    now = report(recall_at_5=[0.0, 1.0], recall_at_3=[0.0, 1.0])
    comparison = compare(now.per_query, read_baseline(saved(before, tmp_path)), CONFIG)
    assert (comparison.queries, comparison.only_before, comparison.only_now) == (2, 1, 0)
    assert list(comparison.metrics) == ["recall@5"]
    assert comparison.metrics["recall@5"].before == 1  # of the two, not of the three
    assert comparison.not_compared == ("recall@3", "recall@7")


def test_a_baseline_without_anything_in_common_is_refused(tmp_path: Path) -> None:
    baseline = read_baseline(saved(report(recall_at_5=[1.0]), tmp_path))
    with pytest.raises(UsageError, match="none of these measures"):
        compare(report(recall_at_7=[1.0]).per_query, baseline, CONFIG)
    (tmp_path / "empty.json").write_text('{"per_query": []}')
    empty = read_baseline(tmp_path / "empty.json")
    with pytest.raises(UsageError, match="none of these queries"):
        compare(report(recall_at_5=[1.0]).per_query, empty, CONFIG)
    with pytest.raises(UsageError, match="none of these queries"):
        require_common(report(recall_at_5=[1.0]).per_query, empty)
    require_common(report(recall_at_5=[1.0]).per_query, baseline)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("{", "Invalid JSON"),
        ('{"hits": []}', "per_query: Field required"),
        ('{"per_query": [{"id": "q1", "metrics": {"recall@5": null}}]}', "recall@5: .*number"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, body: str, complaint: str) -> None:
    (tmp_path / "before.json").write_text(body)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_baseline(tmp_path / "before.json")
    assert str(caught.value).startswith(f"--baseline {tmp_path / 'before.json'}: ")
    with pytest.raises(UsageError, match="No such file"):
        read_baseline(tmp_path / "nowhere.json")
