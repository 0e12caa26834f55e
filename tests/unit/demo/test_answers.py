"""What the demo counts as a right answer and a well placed box."""

from __future__ import annotations

import pytest

from pipelines.demo.answers import ASKED, AnswerRun, answer_totals
from pipelines.demo.corpus import build
from pipelines.demo.nameplates import NAMEPLATES

BY_ID = {asked.id: asked for asked in ASKED}
VOLTAGE = BY_ID["voltage"]


def run(asked=VOLTAGE, text="", cited=(), box=None, refused=False, shown=1) -> AnswerRun:
    """`shown`: the picture that the box is on; evidence 1 is the voltage's, 2 another's."""
    citations = [{"n": n, "hit_id": hit} for n, hit in enumerate(cited, start=1)]
    boxes = [{"image": shown, "xyxy": list(box), "label": ""}] if box else []
    documents = ("plate-lk-847", "plate-sa-870")
    hits = [{"citation_id": n, "document_id": one} for n, one in enumerate(documents, start=1)]
    answer = {"answer": text, "citations": citations, "boxes": boxes, "hits": hits, "refused": refused}
    return AnswerRun(asked, answer, 1.0)


def test_an_answer_says_the_figure_and_cites_its_document() -> None:
    assert run(text="It is 120 V [1].", cited=["plate-lk-847#img-0"]).right
    assert not run(text="It is 120 V.").right
    assert not run(text="It is 120 V [1].", cited=["plate-tn-42#img-0"]).right
    assert not run(text="It is 12 V [1].", cited=["plate-lk-847#img-0"]).right
    assert not run(text="It is 1120 V [1].", cited=["plate-lk-847#img-0"]).right


def test_of_the_questions_own_picture_nothing_is_cited() -> None:
    assert run(BY_ID["own-picture"], "The speed is 2871 rpm").right


def test_where_there_is_no_answer_a_refusal_is_right() -> None:
    nowhere = BY_ID["nowhere"]
    assert run(nowhere, refused=True).right
    assert not run(nowhere, "The weight is 120 g [1]").right
    assert run(nowhere).placed is None


def test_a_box_is_placed_where_half_of_it_is_the_value() -> None:
    x0, y0, x1, y1 = box = VOLTAGE.box()
    assert run(box=box).placed
    assert run(box=(x0, y0, x1, y1 + 0.9 * (y1 - y0))).placed
    assert run(box=(x0, y0, x1, y1 + 1.1 * (y1 - y0))).placed is False
    assert run().placed is False


def test_a_box_is_placed_on_the_right_picture_only() -> None:
    assert run(box=VOLTAGE.box(), shown=2).placed is False
    own = BY_ID["own-picture"]
    assert run(own, box=own.box(), shown="query").placed
    assert run(own, box=own.box(), shown=2).placed is False  # the same plate, as evidence


def test_totals_count_boxes_apart() -> None:
    totals = answer_totals([run(box=VOLTAGE.box()), run(BY_ID["nowhere"], refused=True)])
    assert (totals.questions, totals.right, totals.boxes, totals.placed) == (2, 1, 1, 1)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.id)
def test_what_is_expected_stands_where_the_question_says(asked, tmp_path) -> None:
    [plate] = [one for one in NAMEPLATES if one.document_id == asked.document] or [None]
    if asked.value:
        assert dict(plate.values)[asked.value] == asked.expected
    elif asked.expected:
        assert asked.expected in plate.text
    if asked.image:
        pytest.importorskip("skimage")
        build(tmp_path)
        assert (tmp_path / asked.image).is_file()
