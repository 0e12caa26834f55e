"""Lines of text by the content of the picture that they were read in."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.readings import Reading, lines_of, load_reading, reading_path, save_reading
from pipelines.core.types import Line

CONTENT = "ab" * 32
READING = Reading("reader 1", (Line("电压 380 V", (1.0, 2.5, 30.0, 40.0), 0.98),))


def test_a_reading_survives_its_file(tmp_path: Path) -> None:
    save_reading(tmp_path, CONTENT, READING)
    assert load_reading(tmp_path, CONTENT) == READING
    assert [path.name for path in reading_path(tmp_path, CONTENT).parent.iterdir()] == [f"{CONTENT}.json"]


def test_a_picture_without_text_was_read_all_the_same(tmp_path: Path) -> None:
    assert load_reading(tmp_path, CONTENT) is None
    save_reading(tmp_path, CONTENT, Reading("reader 1", ()))
    assert load_reading(tmp_path, CONTENT) == Reading("reader 1", ())


def test_a_later_reading_stands(tmp_path: Path) -> None:
    save_reading(tmp_path, CONTENT, READING)
    save_reading(tmp_path, CONTENT, Reading("reader 2", ()))
    assert load_reading(tmp_path, CONTENT) == Reading("reader 2", ())


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"reader": "r"}', '{"reader": "r", "lines": [["x", [1], 1]]}']
)
def test_a_damaged_file_is_named_and_counts_for_nothing(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_reading(tmp_path, CONTENT, READING)
    reading_path(tmp_path, CONTENT).write_text(damage)
    assert load_reading(tmp_path, CONTENT) is None
    assert f"{CONTENT}.json is damaged" in caplog.text


def lines(*texts: str) -> list[Line]:
    """A line below the other."""
    return [Line(text, (0.0, 10.0 * n, 50.0, 10.0 * n + 8), 1.0) for n, text in enumerate(texts)]


def shown(text: str, *texts: str) -> list[int]:
    """The numbers of those of these lines that the text says."""
    of_picture = lines(*texts)
    return [of_picture.index(line) for line in lines_of(text, of_picture)]


def test_lines_that_are_lines_of_the_text_are_shown_wherever_they_stand() -> None:
    assert shown("A pump.\n380 V\nLK-9", "LK-9", "80 V", "380 V", "LK-9") == [0, 2, 3]


def test_running_text_shows_the_lines_that_it_goes_over() -> None:
    page = ("First words of", "a page. Then the", "second sentence", "ends. A third.")
    assert shown("Then the second sentence ends.", *page) == [1, 2, 3]
    assert shown("A third.", *page) == [3]
    assert shown("The end of another page.", *page) == []


def test_chinese_lines_are_joined_without_a_space() -> None:
    assert shown("孔距是四十毫米。", "孔距是四", "十毫米。") == [0, 1]


def test_text_that_stands_twice_is_shown_twice() -> None:
    assert shown("Mind the gap", "Mind the", "gap", "between", "Mind", "the gap") == [0, 1, 3, 4]


def test_a_word_within_a_line_shows_nothing() -> None:
    assert shown("a\npump", "a pump and a valve", "water pumps are here") == []


def test_a_line_without_a_place_is_not_shown_but_gone_over() -> None:
    first, unseen, last = lines("one", "two", "three")
    unseen = Line("two", (0.0, 0.0, 0.0, 0.0), 1.0)
    assert lines_of("one two three", [first, unseen, last]) == (first, last)


def test_no_text_has_no_lines() -> None:
    assert shown("", "a", "b") == shown("a", *()) == []
