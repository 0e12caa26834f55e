"""What words found, by the share of the question's words that a passage holds."""

from __future__ import annotations

import pytest
from fakes import chunk_part

from pipelines.core.types import Found
from pipelines.core.words_held import by_words_held, shares_held


@pytest.mark.parametrize(
    ("question", "text", "share"),
    [
        ("the mounting holes", "Drill the hole for mounting.", 1.0),
        ("mounting holes", "a wholesale of mountains", 0.5),  # one, the engine knows which
        ("HOLE hole Holes", "hole", 1.0),
        ("安装孔距是多少", "安装孔距为 90 毫米", 1.0),
        ("阀门 pump", "该泵的阀门", 0.5),
        ("ｐｕｍｐ", "Pump", 1.0),
        ("?!", "pump", 1.0),
        ("펌프의 전압 220", "펌프는 전압이 높다", 1 / 3),
        (f"pump {'x' * 200}", "pump", 1.0),
    ],
)
def test_the_share_of_a_questions_words_that_a_text_holds(question: str, text: str, share: float) -> None:
    assert shares_held(question, [text]) == [share]


def test_each_text_has_its_share() -> None:
    assert shares_held("pump valve", ["a valve", "pumps and valves"]) == [0.5, 1.0]


def test_what_words_found_is_worth_the_share_of_the_questions_words_that_it_holds() -> None:
    """0.9 · √(2/2) for the passage with both words, 1 · √(1/2) for the one that repeats the rare one."""
    rare, both = chunk_part("rare", "zebra, zebra, zebra"), chunk_part("both", "zebras on their crossing")
    first, second = by_words_held("the zebra crossing", [Found(rare, 20.0), Found(both, 18.0)])
    assert (first.part, first.score) == (both, pytest.approx(0.9))
    assert (second.part, second.score) == (rare, pytest.approx(0.5**0.5))
    assert by_words_held("zebra", []) == []
