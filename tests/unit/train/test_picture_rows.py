"""The rows of pictures and texts that the encoder and the aligner are trained on: what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drawn_concepts import draw_shape

from pipelines.core.errors import UsageError
from pipelines.train import aligner_data, encoder_data
from pipelines.train.picture_rows import PictureRow, picture_rows

GOOD = {"image": "a.png", "texts": ["红"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    draw_shape("circle", (1, 2, 3)).save(tmp_path / "a.png")
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b'{"image": "a.png", "texts": ["\xff"]}', "is not UTF-8"),
        (b'{"image": "a\\u0000.png", "texts": ["a"]}', "image 'a.x00.png': embedded null byte"),
        (json.dumps(GOOD | {"image": "a" * 300}).encode(), "image 'a+': .*too long"),
        (b"[" * 2**20 + b"[", "is longer than"),
        (b"[" * 2**10, "no JSON"),
        (b'{"image": "loop.png", "texts": ["a"]}', "image 'loop.png' does not exist"),
    ],
)
def test_what_no_row_can_be_is_told_with_file_and_line(file: Path, row: bytes, problem: str) -> None:
    (file.parent / "loop.png").symlink_to("loop.png")
    file.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + row + b"\n")
    with pytest.raises(UsageError, match=r"rows\.jsonl:3: " + problem):
        list(picture_rows(file, PictureRow))


def test_a_mark_of_byte_order_is_no_part_of_the_first_row(file: Path) -> None:
    file.write_text(json.dumps(GOOD, ensure_ascii=False), "utf-8-sig")
    assert [row.texts for _, row in picture_rows(file, PictureRow)] == [("红",)]
    assert aligner_data.read_rows(file)[0].texts == ("红",)


def test_the_encoder_reads_a_file_as_the_aligner_does(file: Path) -> None:
    rows = [GOOD | {"concept": concept, "split": "train"} for concept in "ab"]
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8-sig")
    assert [row.concept for row in encoder_data.read_rows(file)] == ["a", "b"]
    file.write_bytes(b"\xff\xfe{}")
    for read in (encoder_data.read_rows, aligner_data.read_rows):
        with pytest.raises(UsageError, match=r"rows\.jsonl:1: is not UTF-8"):
            read(file)
