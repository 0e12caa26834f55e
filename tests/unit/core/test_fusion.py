"""Fusion, worked by hand."""

from __future__ import annotations

import pytest

from pipelines.core.fusion import Fused, fuse, margins, reciprocal, side_weights


def order(fused: list) -> list[str]:
    return [entry.item for entry in fused]


def by_rank(ranks: dict[str, dict[str, int]], weights: dict[str, float], c: int = 60) -> list[Fused[str]]:
    return fuse(ranks, weights, {name: reciprocal(9, c) for name in ranks})


def test_a_margin_is_a_scores_distance_to_what_tells_nothing() -> None:
    assert margins([0.9, 0.6, 0.4], 0.5) == pytest.approx([0.4, 0.1, 0.0])
    assert margins([], 0.0) == []


def test_a_ranking_that_tells_its_items_apart_decides() -> None:
    ranks = {"flat": {"a": 1, "b": 2, "c": 3}, "sharp": {"c": 1, "d": 2}}
    worth = {"flat": margins([0.31, 0.305, 0.3], 0.3), "sharp": margins([0.9, 0.4], 0.3)}
    assert order(fuse(ranks, {"flat": 0.5, "sharp": 0.5}, worth)) == ["c", "d", "a", "b"]


def test_ties_go_by_rank_in_what_has_a_weight() -> None:
    ranks = {"told": {"a": 1, "b": 2}, "counts": {"b": 1, "a": 2}}
    worth = {"told": [0.0, 0.0], "counts": [0.0, 0.0]}
    assert order(fuse(ranks, {"told": 0.0, "counts": 1.0}, worth)) == ["b", "a"]


def test_a_score_is_the_weighted_sum_of_reciprocal_ranks() -> None:
    [both] = by_rank({"visual": {"a": 1}, "text": {"a": 2}}, {"visual": 0.7, "text": 0.3})
    assert both.score == pytest.approx(0.7 / 61 + 0.3 / 62)
    assert both.ranks == {"visual": 1, "text": 2}


def test_agreement_beats_a_single_first_place() -> None:
    ranks = {"visual": {"alone": 1, "agreed": 2}, "text": {"agreed": 2}}
    assert order(by_rank(ranks, {"visual": 0.5, "text": 0.5})) == ["agreed", "alone"]


def test_alpha_decides_between_two_first_places() -> None:
    ranks = {"visual": {"picture": 1}, "text": {"chunk": 1}}
    assert order(by_rank(ranks, {"visual": 0.7, "text": 0.3})) == ["picture", "chunk"]
    assert order(by_rank(ranks, {"visual": 0.3, "text": 0.7})) == ["chunk", "picture"]


def test_items_of_one_rank_tie_and_keep_the_order_of_appearance() -> None:
    assert order(by_rank({"text": {"b": 1, "a": 1}}, {"text": 1.0})) == ["b", "a"]


def test_equal_scores_go_by_the_better_rank() -> None:
    # c = 0: 1/2 + 1/2 = 1 against 1/1 = 1
    ranks = {"x": {"twice second": 2, "once first": 1}, "y": {"twice second": 2}}
    assert order(by_rank(ranks, {"x": 1.0, "y": 1.0}, c=0)) == ["once first", "twice second"]


def test_a_small_constant_lets_a_first_place_beat_agreement() -> None:
    # c = 0: 1/1 = 1 against 1/3 + 1/3
    ranks = {"x": {"first": 1, "agreed": 3}, "y": {"agreed": 3}}
    assert order(by_rank(ranks, {"x": 1.0, "y": 1.0}, c=0)) == ["first", "agreed"]


def test_nothing_found_fuses_to_nothing() -> None:
    assert by_rank({"text": {}}, {"text": 1.0}) == []


def test_each_side_shares_its_weight_by_the_shares_of_its_branches() -> None:
    assert side_weights(0.7, {"i2i": 0.8, "t2i": 0.2}, {"text": 0.25, "lexical": 0.75}) == pytest.approx(
        {"i2i": 0.56, "t2i": 0.14, "text": 0.075, "lexical": 0.225}
    )


def test_what_is_left_of_a_side_has_all_of_its_weight() -> None:
    assert side_weights(0.6, {"i2i": 0.9}, {"text": 0.25}) == pytest.approx({"i2i": 0.6, "text": 0.4})


def test_a_side_without_branches_has_no_weight_to_share() -> None:
    assert side_weights(0.9, {"i2i": 0.5}, {}) == {"i2i": 0.9}
