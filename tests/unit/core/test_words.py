"""Words of texts, Chinese and English."""

from __future__ import annotations

import pytest

from pipelines.core.stores.words import shares_held


@pytest.mark.parametrize(
    ("question", "text", "share"),
    [
        ("the mounting holes", "Drill the hole for mounting.", 1.0),
        ("mounting holes", "a wholesale of mountains", 0.0),
        ("HOLE hole Holes", "hole", 1.0),
        ("安装孔距是多少", "安装孔距为 90 毫米", 1.0),
        ("阀门 pump", "该泵的阀门", 0.5),
        ("ｐｕｍｐ", "Pump", 1.0),
        ("pump", "", 0.0),
        ("?!", "pump", 0.0),
        (f"pump {'x' * 200}", "pump", 1.0),
    ],
)
def test_the_share_of_a_questions_words_that_a_text_holds(question: str, text: str, share: float) -> None:
    assert shares_held(question, [text]) == [share]


def test_each_text_has_its_share() -> None:
    assert shares_held("pump valve", ["a valve", "pumps and valves", "a pipe"]) == [0.5, 1.0, 0.0]
