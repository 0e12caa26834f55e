"""Measures of rankings against trec_eval's figures, hand-worked ones, and what must hold for any ranking."""

from __future__ import annotations

import tracemalloc

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, R, Success, nDCG

from pipelines.evaluate import metrics
from pipelines.evaluate.metrics import padded

CUTOFFS = (1, 3, 5, 10, 40)
DOCUMENTS = [f"d{n}" for n in range(30)]


def random_runs(seed: int, queries: int = 40) -> tuple[dict, dict]:
    """Judgements of grades 0 to 3 and scores with many ties. Every seventh ranking is empty; no query is
    without a relevant document."""
    random = np.random.default_rng(seed)
    qrels, run = {}, {}
    for number in range(queries):
        judged = random.choice(DOCUMENTS, size=random.integers(1, 15), replace=False)
        qrels[f"q{number}"] = {d: int(random.integers(0, 4)) for d in judged} | {str(judged[0]): 1}
        found = [] if number % 7 == 0 else random.choice(DOCUMENTS, random.integers(1, 30), replace=False)
        run[f"q{number}"] = {str(d): float(random.integers(0, 5)) for d in found}
    return qrels, run


def ours(qrels: dict, run: dict, width: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of our measures, with trec_eval's order: by score, and ties by the name, both falling."""
    orders = [sorted(found, key=lambda d, found=found: (found[d], d), reverse=True) for found in run.values()]
    judged = list(qrels.values())
    grades = [[q.get(d, 0) for d in order] for q, order in zip(judged, orders, strict=True)]
    relevant = [sorted((g for g in q.values() if g > 0), reverse=True) for q in judged]
    return padded(grades, width), np.array([len(q) for q in relevant]), padded(relevant, width)


@pytest.mark.parametrize("seed", range(3))
def test_the_measures_are_those_of_trec_eval(seed: int) -> None:
    qrels, run = random_runs(seed)
    grades, relevant, ideal = ours(qrels, run)
    mine = {RR: metrics.reciprocal_rank(grades)}
    for k in CUTOFFS:
        mine[R @ k] = metrics.recall(grades, relevant, k)
        mine[Success @ k] = metrics.success(grades, k)
        mine[nDCG @ k] = metrics.ndcg(grades, ideal, k)
    asked = list(qrels)
    theirs = {measure: np.zeros(len(asked)) for measure in mine}  # trec_eval is silent on an empty ranking
    for one in ir_measures.iter_calc(list(mine), qrels, run):
        theirs[one.measure][asked.index(one.query_id)] = one.value
    for measure, values in mine.items():
        np.testing.assert_allclose(values, theirs[measure], atol=1e-6, err_msg=str(measure))


def test_recall_is_a_share_of_all_that_is_relevant_and_success_is_not() -> None:
    grades = padded([[0, 1, 1]], 3)
    assert metrics.recall(grades, [4], 2) == [0.25]
    assert metrics.recall(grades, [4], 3) == [0.5]
    assert metrics.success(grades, 1) == [0]
    assert metrics.success(grades, 2) == [1]


def test_ndcg_of_grades_by_hand() -> None:
    """Grades 1, 0, 3 where 3, 2, 1 would be ideal: (1 + 3/2) / (3 + 2/log2(3) + 1/2)."""
    value = metrics.ndcg(padded([[1, 0, 3]], 3), padded([[3, 2, 1]], 3), 3)
    assert value == pytest.approx(2.5 / (3 + 2 / np.log2(3) + 0.5))


def test_ndcg_of_binary_grades_by_hand() -> None:
    value = metrics.ndcg(padded([[0, 1]], 5), padded([[1]], 5), 5)
    assert value == pytest.approx(1 / np.log2(3))


def test_a_miss_has_the_rank_behind_the_last_and_no_reciprocal_rank() -> None:
    grades = padded([[0, 0, 2], [], [1]], 4)
    assert metrics.first_rank(grades).tolist() == [3, 5, 1]
    assert metrics.reciprocal_rank(grades).tolist() == [pytest.approx(1 / 3), 0, 1]


def test_a_query_without_relevant_items_is_refused() -> None:
    nothing = padded([[0]], 1)
    with pytest.raises(AssertionError, match="no recall"):
        metrics.recall(nothing, [0], 1)
    with pytest.raises(AssertionError, match="no nDCG"):
        metrics.ndcg(nothing, nothing, 1)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, int, np.ndarray]:
    """A ranking that holds some of the relevant items, among others."""
    relevant = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    found = draw(st.lists(st.sampled_from(range(len(relevant))), unique=True))
    order = draw(st.permutations([relevant[n] for n in found] + [0] * draw(st.integers(0, 6))))
    ideal = sorted(relevant, reverse=True)
    return padded([order], 12), len(relevant), padded([ideal], 12)


@settings(max_examples=60, deadline=None)
@given(rankings(), st.integers(1, 12))
def test_what_holds_for_any_ranking(ranking: tuple[np.ndarray, int, np.ndarray], k: int) -> None:
    grades, relevant, ideal = ranking
    [recall] = metrics.recall(grades, relevant, k)
    [success] = metrics.success(grades, k)
    assert 0 <= recall <= success <= 1
    assert recall <= metrics.recall(grades, relevant, k + 1)[0]
    assert 0 <= metrics.ndcg(grades, ideal, k)[0] <= 1 + 1e-12
    assert metrics.ndcg(ideal, ideal, k)[0] == 1
    assert (metrics.first_rank(grades)[0] <= k) == (success == 1)


@settings(max_examples=60, deadline=None)
@given(rankings(), st.integers(0, 10))
def test_a_better_item_one_place_higher_never_costs(
    ranking: tuple[np.ndarray, int, np.ndarray], place: int
) -> None:
    grades, _, ideal = ranking
    swapped = grades.copy()
    swapped[0, [place, place + 1]] = sorted(grades[0, [place, place + 1]], reverse=True)
    assert metrics.ndcg(swapped, ideal, 12)[0] >= metrics.ndcg(grades, ideal, 12)[0]
    assert metrics.reciprocal_rank(swapped)[0] >= metrics.reciprocal_rank(grades)[0]


# Intervals.


def test_an_interval_is_that_of_the_normal_distribution_where_there_are_many_queries() -> None:
    values = np.random.default_rng(1).random((2000, 1))
    mean, low, high = metrics.bootstrap(values)
    error = values.std() / np.sqrt(2000)
    assert mean == values.mean()
    np.testing.assert_allclose(
        [low[0], high[0]], [mean[0] - 1.96 * error, mean[0] + 1.96 * error], atol=0.0015
    )


def test_a_seed_gives_the_same_interval_again() -> None:
    values = np.random.default_rng(2).random((30, 2))
    first, again, other = (np.stack(metrics.bootstrap(values, seed=seed)) for seed in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()


def test_equal_values_have_an_interval_of_no_width() -> None:
    for values in (np.full((50, 1), 0.25), np.array([[0.25]])):
        mean, low, high = metrics.bootstrap(values, resamples=100)
        assert mean == low == high == 0.25


def test_the_draws_of_ten_thousand_queries_fit_in_bounded_memory() -> None:
    values = np.random.default_rng(3).random((10_000, 14))
    tracemalloc.start()
    metrics.bootstrap(values, resamples=300)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 2**20  # all at once: 24 MB of draws, as much of their cells, of counts and of floats


def test_blocks_of_draws_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).random((20, 1))
    whole = np.stack(metrics.bootstrap(values, resamples=150))
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 7 * 20)
    np.testing.assert_allclose(np.stack(metrics.bootstrap(values, resamples=150)), whole)


def test_pairing_sees_a_small_gain_that_separate_intervals_do_not() -> None:
    before = np.random.default_rng(5).random((200, 1))
    now = before + 0.02 + np.random.default_rng(6).normal(0, 0.03, (200, 1))
    _, low, high = metrics.paired_bootstrap(now, before)
    assert low > 0
    assert metrics.bootstrap(now)[1] < metrics.bootstrap(before)[2]
    assert high < 0.04


def test_the_same_run_twice_has_no_difference() -> None:
    values = np.random.default_rng(7).random((50, 3))
    for ends in metrics.paired_bootstrap(values, values, resamples=100):
        assert (ends == 0).all()


# CLIP score.


def test_clip_score_is_the_cosine_above_0_times_two_and_a_half() -> None:
    pictures = [[2, 0], [2, 0], [2, 0], [2, 0]]
    texts = [[3, 0], [0, 1], [-1, 0], [1, np.sqrt(3)]]  # 0°, 90°, 180°, 60°
    np.testing.assert_allclose(metrics.clip_score(pictures, texts), [2.5, 0, 0, 1.25])


# Consistency of pictures and texts.


def test_pictures_and_texts_that_can_change_places_are_consistent() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 4))
    turned = vectors @ np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    np.testing.assert_allclose(metrics.cross_modal_gap(vectors, 3 * vectors), 0, atol=1e-15)
    np.testing.assert_allclose(metrics.in_modal_gap(vectors, turned), 0, atol=1e-15)
    assert (metrics.cross_modal_gap(vectors, turned) > 0).all()


def test_gaps_by_hand() -> None:
    """cos(I1, T2) = 1 against cos(I2, T1) = 0; cos(I1, I2) = 0 against cos(T1, T2) = 1."""
    pictures, texts = [[1, 0], [0, 2]], [[1, 0], [5, 0]]
    np.testing.assert_allclose(metrics.cross_modal_gap(pictures, texts), [0.5, 0.5])
    np.testing.assert_allclose(metrics.in_modal_gap(pictures, texts), [0.5, 0.5])


def test_gaps_are_the_same_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, texts = np.random.default_rng(2).normal(size=(2, 7, 3))
    whole = metrics.cross_modal_gap(pictures, texts), metrics.in_modal_gap(pictures, texts)
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 14)
    np.testing.assert_allclose(
        (metrics.cross_modal_gap(pictures, texts), metrics.in_modal_gap(pictures, texts)), whole
    )
