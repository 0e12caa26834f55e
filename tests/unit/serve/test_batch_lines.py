"""The lines of `mmrag ask --batch`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import UsageError
from pipelines.serve.batch_lines import parse_line, read_lines


def test_a_line_is_a_question_and_what_is_right_is_not_shown() -> None:
    asked = parse_line('{"id": 7, "query": "Which voltage?", "answers": ["24 V"]}')
    assert (asked.id, asked.query, asked.k) == (7, "Which voltage?", 10)


@pytest.mark.parametrize(
    ("line", "name"),
    [('{"id": 0, "query": "x"}', "0"), ('{"id": "a", "query": "x"}', "a"), ('{"query": "x"}', "9")],
)
def test_a_question_goes_by_its_id_or_else_by_its_line(line: str, name: str) -> None:
    assert parse_line(line).named(9) == name


def test_lines_have_the_numbers_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text('\n{"query": "x"}\n  \n{"query": "y"}\n')
    assert read_lines(tmp_path / "asked.jsonl") == [(2, '{"query": "x"}'), (4, '{"query": "y"}')]


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
