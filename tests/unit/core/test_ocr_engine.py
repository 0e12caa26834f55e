"""OCR of one picture: real RapidOCR on drawn ones."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import png
from PIL import ExifTags, Image, ImageDraw, ImageFont

from pipelines.core import images, ocr
from pipelines.core.errors import BadImage, BadReading, MissingDependency, UsageError
from pipelines.core.grounding import iou
from pipelines.core.ocr import read_lines, read_picture, reading_order, words_reader
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.types import Line

FONT = Path(ocr.__file__).parents[1] / "demo" / "fonts" / "NotoSansSC-subset.otf"
MAX_SIDE = 640  # small, for speed
Box = tuple[float, float, float, float]

# In reading order; the second row has two columns.
WORDS = {"Pump LK-847": (40, 20), "电压": (40, 100), "380 V": (360, 104), "安装孔距": (40, 180)}


def drawn(scale: int = 1) -> tuple[Image.Image, dict[str, Box]]:
    """The words, each with the box of its ink."""
    image = Image.new("RGB", (560 * scale, 260 * scale), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.truetype(FONT, 36 * scale)
    boxes: dict[str, Box] = {}
    for word, (x, y) in WORDS.items():
        at = (x * scale, y * scale)
        draw.text(at, word, "black", font)
        boxes[word] = draw.textbbox(at, word, font)
    return image, boxes


def read(data: bytes) -> tuple[Line, ...]:
    return read_picture(ocr.load_engine(MAX_SIDE), images.decode(data), MAX_SIDE)


def assert_reads_as_drawn(lines: tuple[Line, ...], boxes: dict[str, Box]) -> None:
    assert [line.text for line in lines] == list(WORDS)
    overlaps = {line.text: round(iou(line.xyxy, boxes[line.text]), 2) for line in lines}
    assert min(overlaps.values()) > 0.45, overlaps  # the detector leaves a margin around the ink
    assert all(0.8 < line.confidence <= 1 for line in lines)


def test_english_and_chinese_words_are_read_in_order_where_they_stand() -> None:
    image, boxes = drawn()
    assert_reads_as_drawn(read(png(image)), boxes)


def test_boxes_of_a_picture_turned_by_its_exif_are_in_upright_pixels() -> None:
    image, boxes = drawn()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # shown after a quarter turn to the right
    file = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    assert_reads_as_drawn(read(file.getvalue()), boxes)


def test_a_huge_picture_is_read_smaller_and_its_boxes_are_in_its_own_pixels() -> None:
    image, boxes = drawn(scale=8)
    file = io.BytesIO()
    image.save(file, "JPEG")
    picture = images.decode(file.getvalue())
    assert picture.image.width < picture.width == 4480  # decoded smaller already
    assert_reads_as_drawn(read_picture(ocr.load_engine(MAX_SIDE), picture, MAX_SIDE), boxes)


def test_a_picture_of_no_corpus_is_read_by_the_settings() -> None:
    image, _ = drawn()
    config = OcrConfig(kind="rapidocr", max_side=MAX_SIDE)
    assert [line.text for line in read_lines(config, png(image))] == list(WORDS)
    few = config.model_copy(update={"max_chars": len("Pump LK-847") + 2})
    assert [line.text for line in read_lines(few, png(image))] == list(WORDS)[:2]
    words = words_reader(few)
    assert words
    assert words(png(image)) == " ".join(list(WORDS)[:2])
    with pytest.raises(BadImage):
        read_lines(config, b"no picture")
    with pytest.raises(UsageError, match="set it to rapidocr"):
        read_lines(OcrConfig(), png(image))
    assert words_reader(OcrConfig()) is None


@pytest.mark.parametrize("size", [(320, 320), (640, 1), (1, 640), (3, 3)])
def test_nothing_is_read_in_a_blank_picture(size: tuple[int, int]) -> None:
    assert read(png(Image.new("RGB", size, "white"))) == ()


def test_what_the_engine_cannot_work_on_is_a_bad_reading() -> None:
    with pytest.raises(BadReading, match="OCR failed"):
        ocr.load_engine(MAX_SIDE).read(np.zeros((0, 5, 3), np.uint8))


def line(text: str, top: float, left: float, height: float = 10.0) -> Line:
    return Line(text, (left, top, left + 50.0, top + height), 0.9)


def test_rows_go_from_the_top_and_each_from_the_left() -> None:
    logo = line("logo", top=0, left=0, height=90)
    label, value = line("voltage", top=52, left=100), line("380 V", top=50, left=200)
    last, first = line("end", top=70, left=100), line("pump", top=20, left=100)
    assert reading_order([last, value, first, label, logo]) == [logo, first, label, value, last]


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_without_the_extra_one_line_names_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    ocr.require(OcrConfig())
    for need in (ocr.require, ocr.words_reader):
        with pytest.raises(MissingDependency, match=r"'rapidocr' needs: pip install .* '\.\[ocr\]'"):
            need(OcrConfig(kind="rapidocr"))


def test_a_model_that_is_not_in_the_wheel_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ocr._MODELS, "Rec", "PP-OCRv6_rec_medium.onnx")
    with pytest.raises(MissingDependency, match=r"rec_medium\.onnx is missing, and mmrag fetches no models"):
        ocr.RapidEngine(MAX_SIDE)
