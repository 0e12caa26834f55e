"""The pictures that an answer's boxes are drawn on."""

from __future__ import annotations

from fakes import photograph, png

from pipelines.core import images
from pipelines.core.previews import annotated_pictures, preview_path, save_preview

CONTENT = "ab" * 32


def answer(*marked) -> dict:
    boxes = [{"image": shown, "xyxy": (10, 10, 60, 60), "label": "it"} for shown in marked]
    hits = [
        {"citation_id": 2, "image_uri": preview_uri(CONTENT)},
        {"citation_id": 3, "image_uri": preview_uri("cd" * 32)},
    ]
    return {"boxes": boxes, "hits": hits}


def preview_uri(content: str) -> str:
    return f"/v1/images/{content}.jpg"


def test_the_question_and_the_evidence_have_their_own_boxes(tmp_path) -> None:
    save_preview(tmp_path, CONTENT, images.decode(png(photograph(1, 120))))
    own = png(photograph(2, 80))
    (first, mine), (second, theirs) = annotated_pictures(answer("query", 2, 2), own, tmp_path)
    assert (first, mine.size) == ("query", (80, 80))
    assert (second, theirs.size) == (2, (120, 120))
    plain = images.decode(preview_path(tmp_path, CONTENT).read_bytes()).image
    assert theirs.tobytes() != plain.tobytes()


def test_a_preview_that_is_gone_is_told_as_such(tmp_path) -> None:
    assert list(annotated_pictures(answer(3), None, tmp_path)) == [(3, None)]
    assert list(annotated_pictures(answer(), None, tmp_path)) == []
