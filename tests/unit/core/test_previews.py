"""The pictures that an answer's boxes are drawn on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import photograph, picture, png

from pipelines.core import images
from pipelines.core.errors import BadImage
from pipelines.core.previews import (
    MAX_PREVIEW_BYTES,
    annotated_pictures,
    check_preview,
    preview_path,
    read_preview,
    save_preview,
)

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


def test_what_ingest_writes_passes_for_a_preview(tmp_path) -> None:
    save_preview(tmp_path, CONTENT, images.decode(png(photograph(1, 1600))))
    check_preview(preview_path(tmp_path, CONTENT).read_bytes())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "no JPEG"),
        (picture("red", "PNG"), "no JPEG"),
        (picture("red", "JPEG", side=1537), "1537 pixels; at most 1536"),
        (picture("red", "JPEG") + bytes(MAX_PREVIEW_BYTES), "bytes; at most"),
    ],
)
def test_what_ingest_never_writes_is_no_preview(data: bytes, complaint: str) -> None:
    with pytest.raises(BadImage, match=complaint):
        check_preview(data)


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\0" * 900, "half"])
def test_a_damaged_preview_is_none_and_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes | str
) -> None:
    shown = images.decode(png(photograph(1, 120)))
    save_preview(tmp_path, CONTENT, shown)
    path = preview_path(tmp_path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])
    assert read_preview(tmp_path, CONTENT) is None
    assert f"{path} is damaged" in caplog.text
    save_preview(tmp_path, CONTENT, shown)
    assert path.read_bytes() == whole
    assert read_preview(tmp_path, CONTENT) is not None
