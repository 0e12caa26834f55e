"""The lines of `mmrag ask --batch`."""

from __future__ import annotations

import pytest

from pipelines.core.errors import UsageError
from pipelines.serve.batch_lines import parse_line


def test_a_line_is_a_question_and_what_is_right_is_not_shown() -> None:
    asked = parse_line('{"id": 7, "query": "Which voltage?", "answers": ["24 V"]}')
    assert (asked.id, asked.query, asked.k) == (7, "Which voltage?", 10)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"query": "\\ud800 x"}', "the line holds half a surrogate pair"),
        ('{"query": "x", "id": "\\udfff"}', "the line holds half a surrogate pair"),
        ('{"query": "x", "\\ud800": 1}', "the line holds half a surrogate pair"),
        ('{"query": "x", "colour": 1}', "colour: there is no such field"),
        ('"x"', "wanted an object, in braces"),
        ("{", "the line is no JSON object"),
        ("[" * 100_000, "the line is no JSON object"),
    ],
)
def test_a_line_without_sense_is_refused_and_its_words_can_be_written(line: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as told:
        parse_line(line)
    str(told.value).encode()
