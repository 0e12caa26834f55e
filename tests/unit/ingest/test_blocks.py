"""What a page's pieces become. Hostile ones cost their size: else some of these would take hours."""

from __future__ import annotations

import pytest

from pipelines.ingest.sources.blocks import Blocks

MANY = 100_000
LONG = "Длинный текст " * MANY
pytestmark = pytest.mark.timeout(120)


def texts(blocks: Blocks) -> list[str]:
    return [passage.text for passage in blocks.finish("")[0]]


def test_what_pictures_in_a_line_say_stands_behind_it_once_unless_it_is_said() -> None:
    blocks = Blocks()
    blocks.text("Press the RED button")
    for ordinal, described in enumerate(("red", "Valve", "", "Valve", "pump")):
        blocks.picture(ordinal, described)
    assert texts(blocks) == ["Press the RED button Valve pump"]


def test_a_block_of_very_many_pictures_is_folded_once() -> None:
    blocks = Blocks()
    blocks.text(LONG)
    for number in range(MANY):
        blocks.picture(0, f"№ {number}")
    [text] = texts(blocks)
    assert text.endswith(f" № {MANY - 1}")


def test_a_long_caption_is_not_repeated_for_each_inner_figure() -> None:
    blocks = Blocks()
    blocks.open_frame()
    blocks.text(LONG)
    blocks.caption()
    for number in range(MANY):
        blocks.open_frame()
        blocks.picture(0, f"№ {number}")
        blocks.text("own")
        blocks.caption()
        blocks.close_frame()
    blocks.close_frame()
    found = texts(blocks)
    assert len(found) == MANY + 1
    assert found[-1] == f"own. № {MANY - 1}"


def test_a_long_heading_is_not_repeated_for_each_block() -> None:
    blocks = Blocks()
    blocks.text(LONG)
    blocks.heading(1)
    blocks.text("Below it")
    blocks.heading(2)
    for _ in range(MANY):
        blocks.text("x")
        blocks.close()
    heading = LONG[:153] + "…"  # cut at the last space of 159 characters
    assert set(texts(blocks)) == {f"{heading}\nx"}


def test_many_terms_are_not_repeated_for_each_picture() -> None:
    blocks = Blocks()
    blocks.open_list()
    for _ in range(MANY):
        blocks.text("a term of some length")
        blocks.term()
    for number in range(MANY):
        blocks.picture(0, f"№ {number}")
        blocks.close()
    blocks.close_list()
    assert len(texts(blocks)) == MANY + 1


def test_a_picture_that_is_shown_very_often_is_one_of_its_figure() -> None:
    blocks = Blocks()
    blocks.open_frame()
    for _ in range(MANY):
        blocks.picture(0, "")
    for _ in range(MANY):
        blocks.text("x")
        blocks.close()
    blocks.close_frame()
    passages, _ = blocks.finish("")
    assert {passage.images for passage in passages} == {(0,)}
