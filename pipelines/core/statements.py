"""An answer -> its statements, each with the numbers that it cites. Knows neither evidence nor judges.

A statement is a sentence (ALCE: Gao et al., EMNLP 2023, 3). Marks behind a sentence's full stop are still its
own: "It is 90 mm. [1] It is steel [2]." cites 1 for the first and 2 for the second. What numbers the items of
a list ("1.", "2)", "3、", "第一步：") is no sentence, and says nothing that evidence would have to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

BRACKETS: Final = "[【［"
"""A mark begins with one of these. Models that write Chinese also write `【1】` and `［1］`."""

_CITED = r"\s*[0-9]{1,3}(?:\s*[,，]\s*[0-9]{1,3})*\s*"
MARK: Final = rf"(?:\[{_CITED}\]|【{_CITED}】|［{_CITED}］)"
"""The pattern of what cites one number or several."""

_MARK = re.compile(rf"\s*{MARK}")
_MARKS = rf"(?:{_MARK.pattern})*"
_END = re.compile(rf"(?:[。！？\n]+|(?P<stop>[.!?]+)[\"'”’)）]*(?=\s|[\{BRACKETS}]|$)){_MARKS}")
_SHORT = re.compile(
    r"\b(?:(?i:e\.g|i\.e|etc|vs|no|figs?|eq|approx|ca|cf|min|max|dia)\.(?=\s*[a-z0-9])"
    r"|(?:Dr|Mrs?|Ms|(?<!\d)(?<!\d\s)[A-Z])\.(?=\s))"
)
"""A point that ends no sentence: of an abbreviation that a small letter or a number follows ("No. 5", and not
"No. It"), of a title, of an initial. "230 V." is none."""

_ITEM = re.compile(
    r"^[ \t>*_#-]*(?:[(（]?\d{1,2}(?:[.．、](?!\d)|[)）])(?=[*_]*[ \t]*[^\s\[【［*_])|[①-⑳]"
    r"|(?i:step|步骤)\s*\d{1,2}\s*[.:：]|第\s*[\d一二三四五六七八九十]{1,3}\s*步\s*[:：、,，])[*_]*[ \t]*",
    re.MULTILINE,
)
"""A list's number at the start of a line. A number alone on its line, and 3.5, may be the answer itself."""


@dataclass(frozen=True, slots=True)
class Statement:
    """Its text without marks and a list's numbers; `cited` without repetition, in order."""

    text: str
    cited: tuple[int, ...]


def statements(answer: str) -> tuple[Statement, ...]:
    """The sentences that hold a letter or a digit. Marks before the first belong to it."""
    answer = _ITEM.sub("", answer)
    found: list[Statement] = []
    start = 0
    waiting: tuple[int, ...] = ()
    for end in [*_ends(answer), len(answer)]:
        sentence, start = answer[start:end], end
        text = without_marks(sentence)
        cited = (*waiting, *_numbers(sentence))
        waiting = ()
        if any(character.isalnum() for character in text):
            found.append(Statement(text, tuple(dict.fromkeys(cited))))
        elif found:  # marks of a line of their own
            cited = (*found[-1].cited, *cited)
            found[-1] = Statement(found[-1].text, tuple(dict.fromkeys(cited)))
        else:
            waiting = cited
    return tuple(found)


def without_marks(text: str) -> str:
    """The text as it is read aloud: without `[1]` and `[1, 2]`."""
    return _MARK.sub("", text).strip()


def _ends(text: str) -> list[int]:
    short = {found.end() - 1 for found in _SHORT.finditer(text)}
    return [
        found.end() for found in _END.finditer(text) if found["stop"] != "." or found.start() not in short
    ]


def _numbers(sentence: str) -> list[int]:
    return [int(number) for mark in _MARK.findall(sentence) for number in re.findall("[0-9]+", mark)]
