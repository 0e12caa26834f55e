"""Text on one line: where a line break is a space, and what long runs of white space cost."""

from __future__ import annotations

import itertools
import re

import pytest

from pipelines.core.plain import tidy

# The rule as it was first written: indexes hold texts that it made.
_FIRST_CJK = "\u3000-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
_FIRST_BREAK = re.compile(rf"(?<=[{_FIRST_CJK}])[^\S\n]*\n\s*(?=[{_FIRST_CJK}])")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("钻孔\n间距", "钻孔间距"),
        ("钻孔 \n\n 间距", "钻孔间距"),
        ("钻孔\u3000\n\u3000间距", "钻孔间距"),
        ("钻孔\u3000间距", "钻孔 间距"),
        ("drill\nhole", "drill hole"),
        ("drill\u3000\n间距", "drill 间距"),
        ("a\u200bb\x00c ", "abc"),
    ],
)
def test_a_line_break_inside_chinese_is_no_space(text: str, line: str) -> None:
    assert tidy(text) == line


def test_short_texts_are_what_they_always_were() -> None:
    for length in range(8):
        for characters in itertools.product("中a\u3000 \n", repeat=length):
            text = "".join(characters)
            assert tidy(text) == re.sub(r"\s+", " ", _FIRST_BREAK.sub("", text)).strip()


@pytest.mark.timeout(60)  # hours, where each one is tried to the end of all
@pytest.mark.parametrize("text", ["\u3000" * 2**22, "中" + "\n" * 2**22, "中\u3000" * 2**20, "中\n" * 2**20])
def test_runs_of_white_space_cost_their_length(text: str) -> None:
    assert set(tidy(text)) <= {"中", " "}
