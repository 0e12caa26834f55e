"""Lines of text by the content of the picture that they were read in."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import StoreError
from pipelines.core.readings import Reading, load_reading, reading_path, save_reading
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
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, damage: str) -> None:
    save_reading(tmp_path, CONTENT, READING)
    reading_path(tmp_path, CONTENT).write_text(damage)
    with pytest.raises(StoreError, match=rf"{CONTENT}\.json is damaged .*delete it"):
        load_reading(tmp_path, CONTENT)
