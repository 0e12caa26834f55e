"""Reading a model's text: what is shown, cited, placed and dropped, whole and in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.citations import AnswerReader
from pipelines.core.grounding import FrameConfig
from pipelines.core.types import PlacedBox

FRAME = FrameConfig(fit="pad", units=101)
FRAMES = {2: FRAME.of(200, 100), "query": FRAME.of(100, 100)}


def read(*pieces: str, evidence: int = 3, frames=FRAMES) -> AnswerReader:
    reader = AnswerReader(evidence, frames)
    shown = [reader.feed(piece) for piece in pieces] + [reader.close()]
    assert "".join(shown) == reader.text
    return reader


def test_citations_stay_and_are_noted_once_in_order() -> None:
    reader = read("M6 [2] and M8 [1][2].")
    assert reader.text == "M6 [2] and M8 [1][2]."
    assert reader.cited == [2, 1]


def test_a_number_that_points_at_nothing_goes_with_the_space_before_it() -> None:
    reader = read("M6 [7], M8 [0] and M10 [1].")
    assert reader.text == "M6, M8 and M10 [1]."
    assert reader.dropped == {"citations": 2, "boxes": 0}


def test_several_numbers_in_one_bracket_are_taken_apart() -> None:
    reader = read("Both say so [1, 3，9].")
    assert reader.text == "Both say so [1][3]."
    assert (reader.cited, reader.dropped["citations"]) == ([1, 3], 1)


@pytest.mark.parametrize("text", ["孔距90 mm【2】。", "孔距90 mm［2］。", "孔距90 mm【2，9】。"])
def test_full_width_brackets_cite_and_are_shown_as_usual(text: str) -> None:
    for pieces in ([text], text):
        reader = read(*pieces)
        assert (reader.text, reader.cited) == ("孔距90 mm[2]。", [2])


@pytest.mark.parametrize("text", ["【注意】高温", "【1]", "［1", "【2†source】", "【", "【1.5】"])
def test_full_width_brackets_around_something_else_are_text(text: str) -> None:
    assert read(text).text == text
    assert read(*text).text == text


def test_a_box_behind_full_width_brackets_is_on_that_evidences_picture() -> None:
    reader = read("重740 g【2】[[0,25,50,50]]。")
    assert reader.text == "重740 g[2]。"
    assert [box.image for box in reader.boxes] == [2]


def test_a_box_behind_a_citation_is_on_that_evidences_picture() -> None:
    reader = read("The weight is 740 g [2] [[0,25,50,50]].")
    assert reader.text == "The weight is 740 g [2]."
    # pad: 200 x 100 lies in the middle of a square of 200, from y 50 on
    assert reader.boxes == [PlacedBox(2, (0.0, 0.0, 100.0, 50.0), "The weight is 740 g")]


def test_a_box_without_a_citation_is_on_the_questions_picture() -> None:
    reader = read("Here [1]: 12 V, then [[10,20,30,40]] there")
    assert reader.text == "Here [1]: 12 V, then there"
    assert reader.boxes == [PlacedBox("query", (10.0, 20.0, 30.0, 40.0), "then")]


@pytest.mark.parametrize("text", ["x [1] [[1,2,3,4]]", "x [9] [[1,2,3,4]]", "x [2] [[50,50,50,60]]"])
def test_a_box_on_no_picture_is_dropped_and_counted(text: str) -> None:
    reader = read(text)
    assert reader.boxes == []
    assert reader.dropped["boxes"] == 1
    assert "[[" not in reader.text


def test_without_a_picture_of_the_question_a_bare_box_is_dropped() -> None:
    assert read("[[1,2,3,4]]", frames={}).dropped["boxes"] == 1


def test_a_group_holds_several_boxes() -> None:
    reader = read("screws [[1,2,3,4],[5,6,7,8]]")
    assert [tuple(map(round, box.xyxy)) for box in reader.boxes] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert {box.label for box in reader.boxes} == {"screws"}


@pytest.mark.parametrize(
    "text", ["a[i] = [x]", "[", "see [1", "[[1,2", "array [[1,2],[3,4]]", "[12", "[-1]", "[]"]
)
def test_what_only_resembles_a_mark_is_text(text: str) -> None:
    assert read(text).text == text
    assert read(*text).text == text


def test_doubled_brackets_around_one_number_are_a_citation() -> None:
    reader = read("M6 [[2]].")
    assert (reader.text, reader.cited) == ("M6 [2].", [2])


def test_text_is_shown_as_soon_as_it_can_be_no_mark() -> None:
    reader = AnswerReader(3, FRAMES)
    assert reader.feed("A screw ") == "A screw"
    assert reader.feed("[") == ""
    assert reader.feed("2") == ""
    assert reader.feed("] holds") == " [2] holds"
    assert reader.feed(" [a") == " [a"


def test_what_is_held_back_is_bounded() -> None:
    reader = AnswerReader(3, FRAMES)
    held = "[" + "1," * 400
    assert reader.feed(held) == held


MARKS = ("[2]", "【2】", "［9］", "[[1,2,3,4]]", "[9]")
PIECES = st.lists(st.sampled_from([*"[]【】［］0123, a.。", *MARKS, " 740 g "]), max_size=40)


@given(PIECES)
def test_pieces_say_the_same_as_the_whole(pieces: list[str]) -> None:
    whole, parts = read("".join(pieces)), read(*pieces)
    assert (whole.text, whole.cited, whole.boxes, whole.dropped) == (
        parts.text, parts.cited, parts.boxes, parts.dropped,
    )  # fmt: skip
