"""Rank fusion, worked by hand."""

from __future__ import annotations

import pytest

from pipelines.core.fusion import fuse, side_weights


def order(fused: list) -> list[str]:
    return [entry.item for entry in fused]


def test_a_score_is_the_weighted_sum_of_reciprocal_ranks() -> None:
    [both] = fuse({"visual": {"a": 1}, "text": {"a": 2}}, {"visual": 0.7, "text": 0.3})
    assert both.score == pytest.approx(0.7 / 61 + 0.3 / 62)
    assert both.ranks == {"visual": 1, "text": 2}


def test_agreement_beats_a_single_first_place() -> None:
    ranks = {"visual": {"alone": 1, "agreed": 2}, "text": {"agreed": 2}}
    assert order(fuse(ranks, {"visual": 0.5, "text": 0.5})) == ["agreed", "alone"]


def test_alpha_decides_between_two_first_places() -> None:
    ranks = {"visual": {"picture": 1}, "text": {"chunk": 1}}
    assert order(fuse(ranks, {"visual": 0.7, "text": 0.3})) == ["picture", "chunk"]
    assert order(fuse(ranks, {"visual": 0.3, "text": 0.7})) == ["chunk", "picture"]


def test_items_of_one_rank_tie_and_keep_the_order_of_appearance() -> None:
    assert order(fuse({"text": {"b": 1, "a": 1}}, {"text": 1.0})) == ["b", "a"]


def test_equal_scores_go_by_the_better_rank() -> None:
    # c = 0: 1/2 + 1/2 = 1 against 1/1 = 1
    ranks = {"x": {"twice second": 2, "once first": 1}, "y": {"twice second": 2}}
    assert order(fuse(ranks, {"x": 1.0, "y": 1.0}, c=0)) == ["once first", "twice second"]


def test_a_small_constant_lets_a_first_place_beat_agreement() -> None:
    # c = 0: 1/1 = 1 against 1/3 + 1/3
    ranks = {"x": {"first": 1, "agreed": 3}, "y": {"agreed": 3}}
    assert order(fuse(ranks, {"x": 1.0, "y": 1.0}, c=0)) == ["first", "agreed"]


def test_nothing_found_fuses_to_nothing() -> None:
    assert fuse({"text": {}}, {"text": 1.0}) == []


def test_a_side_shares_its_weight_evenly_among_its_branches() -> None:
    assert side_weights(0.7, ["i2i", "t2i"], ["text", "lexical"]) == pytest.approx(
        {"i2i": 0.35, "t2i": 0.35, "text": 0.15, "lexical": 0.15}
    )


def test_a_side_without_branches_has_no_weight_to_share() -> None:
    assert side_weights(0.9, ["i2i"], []) == {"i2i": 0.9}
