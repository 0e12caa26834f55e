"""OCR: real RapidOCR on drawn pictures, and a fake engine for what happens around it."""

from __future__ import annotations

import io
import pickle
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fakes import picture, png, take_away
from PIL import ExifTags, Image, ImageDraw, ImageFont

from pipelines.core import images
from pipelines.core.cache import VectorCache
from pipelines.core.errors import BadImage, BadReading, MissingDependency, UsageError
from pipelines.core.grounding import iou
from pipelines.core.readings import load_reading
from pipelines.core.types import Document, Line, Part, Passage
from pipelines.ingest import ocr
from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.listed import ITEMS
from pipelines.ingest.ocr import OcrConfig, ReadPictures, read_lines, read_picture, reading_order
from pipelines.ingest.rows import DOCUMENT, row_part
from pipelines.ingest.sources import Item, Parsed, SourceConfig, list_items
from pipelines.ingest.stages import LoadPictures, ParseItems

FONT = Path(ocr.__file__).parents[1] / "demo" / "fonts" / "NotoSansSC-subset.otf"
MAX_SIDE = 640  # small, for speed
MIB = 2**20
Box = tuple[float, float, float, float]

# In reading order; the second row has two columns.
WORDS = {"Pump LK-847": (40, 20), "电压": (40, 100), "380 V": (360, 104), "安装孔距": (40, 180)}


# The real engine.


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
    with pytest.raises(BadImage):
        read_lines(config, b"no picture")
    with pytest.raises(UsageError, match="set it to rapidocr"):
        read_lines(OcrConfig(), png(image))


@pytest.mark.parametrize("size", [(320, 320), (640, 1), (1, 640), (3, 3)])
def test_nothing_is_read_in_a_blank_picture(size: tuple[int, int]) -> None:
    assert read(png(Image.new("RGB", size, "white"))) == ()


def test_what_the_engine_cannot_work_on_is_a_bad_reading() -> None:
    with pytest.raises(BadReading, match="OCR failed"):
        ocr.load_engine(MAX_SIDE).read(np.zeros((0, 5, 3), np.uint8))


# Around a fake engine.


class Typist:
    """An Engine that finds the lines it was told, and counts what it reads."""

    def __init__(self, *lines: Line) -> None:
        self.lines, self.sizes, self.is_broken = list(lines), list[tuple[int, ...]](), False

    def read(self, pixels_HWC: np.ndarray) -> list[Line]:
        self.sizes.append(pixels_HWC.shape)
        if self.is_broken:
            raise BadReading("OCR failed (a test)")
        return self.lines


def line(
    text: str, top: float = 0.0, left: float = 0.0, confidence: float = 0.9, height: float = 10.0
) -> Line:
    return Line(text, (left, top, left + 50.0, top + height), confidence)


class Desk:
    """A folder of pictures, and a typist who reads them."""

    def __init__(self, root: Path, *lines: Line, **settings: Any) -> None:
        self.root, self.typist = root, Typist(*lines)
        self.folder = root / "corpus"
        self.folder.mkdir(exist_ok=True)
        self.config = OcrConfig(kind="rapidocr", **settings)

    def reader(self, **settings: Any) -> ReadPictures:
        config = self.config.model_copy(update=settings)
        return ReadPictures(config, self.root / "ocr", MIB, lambda: self.typist)

    def read(self, *data: bytes, **settings: Any) -> Parsed:
        for n, one in enumerate(data):
            (self.folder / f"{n}.png").write_bytes(one)
        addresses = tuple(str(self.folder / f"{n}.png") for n in range(len(data)))
        document = Document("d", "/d.json", (Passage("own text"),), addresses)
        return self.reader(**settings)(Parsed(document))

    def parse(self) -> list[dict[str, Any]]:
        items = [asdict(i) for i in list_items([str(self.folder)], SourceConfig()) if isinstance(i, Item)]
        stage = ParseItems(SourceConfig(), ChunkConfig(), self.reader())
        return stage(pa.Table.from_pylist(items, schema=ITEMS)).to_pylist()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, line("380 V", top=20), line("Pump  LK-847"))


def test_lines_become_passages_of_their_picture_behind_the_documents_own(desk: Desk) -> None:
    parsed = desk.read(picture("red"), picture("blue"))
    addresses = parsed.document.images
    assert parsed.document.passages == (
        Passage("own text"),
        *(Passage(text, (n,), addresses[n]) for n in (0, 1) for text in ("Pump LK-847", "380 V")),
    )
    assert parsed.rejected == ()


def test_a_picture_is_read_once_whatever_its_name(desk: Desk) -> None:
    first = desk.read(picture("red"), picture("red"), picture("blue"))
    assert len(desk.typist.sizes) == 2
    assert desk.read(picture("red"), picture("red"), picture("blue")) == first
    assert len(desk.typist.sizes) == 2


def test_a_picture_whose_lines_are_known_is_not_read(desk: Desk) -> None:
    desk.read(picture("red"), picture("blue"))
    document = Document(
        "d", "/d.pdf", images=(str(desk.folder / "0.png"), "/d.pdf#page=2"), readings=((), (line("its own"),))
    )
    parsed = desk.reader()(Parsed(document))
    assert {passage.images for passage in parsed.document.passages} == {(0,)}
    assert parsed.rejected == ()


def test_a_picture_without_text_is_not_read_again_either(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.read(picture()).document.passages == (Passage("own text"),)
    desk.read(picture())
    assert len(desk.typist.sizes) == 1


def test_settings_that_choose_need_no_second_reading_and_a_larger_side_does(desk: Desk) -> None:
    desk.read(picture())
    desk.read(picture(), min_confidence=0.95, max_chars=3)
    assert len(desk.typist.sizes) == 1
    desk.read(picture(), max_side=1000)
    assert len(desk.typist.sizes) == 2


def test_lines_that_are_not_sure_enough_are_kept_but_not_used(tmp_path: Path) -> None:
    desk = Desk(tmp_path, line("sure"), line("guess", top=20, confidence=0.4))
    assert [p.text for p in desk.read(picture()).document.passages] == ["own text", "sure"]
    assert [p.text for p in desk.read(picture(), min_confidence=0.3).document.passages][1:] == [
        "sure",
        "guess",
    ]


def test_text_beyond_the_limit_of_a_picture_is_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, *(line("four", top=20.0 * n) for n in range(5)), max_chars=8)
    parsed = desk.read(picture())
    assert [p.text for p in parsed.document.passages] == ["own text", "four", "four"]
    [told] = parsed.rejected
    assert told.stage == "ocr"
    assert told.reason.endswith("0.png: 3 lines of text are left out (ingest.ocr.max_chars)")


def test_a_failure_costs_that_pictures_text_and_is_told(desk: Desk) -> None:
    desk.read(picture("blue"))
    desk.typist.is_broken = True
    parsed = desk.read(picture("blue"), picture("red"))
    assert {p.images for p in parsed.document.passages} == {(), (0,)}
    [told] = parsed.rejected
    assert (told.document_id, told.stage) == ("d", "ocr")
    assert told.reason.endswith("1.png: OCR failed (a test)")
    desk.typist.is_broken = False
    assert desk.read(picture("blue"), picture("red")).rejected == ()  # a failure is not remembered


def test_a_broken_picture_is_left_to_the_stage_that_loads_it(desk: Desk) -> None:
    (desk.folder / "bad.png").write_bytes(picture("red")[:60])
    [image, document] = desk.parse()
    assert (image["kind"], image["reason"], document["num_parts"]) == ("image", None, 1)
    assert desk.typist.sizes == []


def test_a_picture_that_storage_does_not_give_leaves_its_document_for_the_next_run(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch, "1.png")
    parsed = desk.read(png(Image.new("RGB", (64, 64))), png(Image.new("RGB", (64, 65))))
    assert [(bad.source, bad.stage) for bad in parsed.rejected] == [(f"{desk.folder}/1.png", "unavailable")]
    assert len(desk.typist.sizes) == 1


def test_the_engine_sees_small_pictures_enlarged_and_none_above_the_limit(desk: Desk) -> None:
    for size in ((100, 100), (3000, 1500), (1500, 10), (800, 900)):
        desk.read(png(Image.new("RGB", size)), max_side=1000)
    assert [shape[:2] for shape in desk.typist.sizes] == [(736, 736), (500, 1000), (7, 1000), (900, 800)]


def test_boxes_are_kept_in_pixels_of_the_original(desk: Desk) -> None:
    desk.typist.lines = [Line("hi", (100.0, 50.0, 200.0, 100.0), 0.87654)]
    data = png(Image.new("RGB", (3000, 1500)))
    desk.read(data, max_side=1000)
    [content] = [path.stem for path in (desk.root / "ocr").rglob("*.json")]
    reading = load_reading(desk.root / "ocr", content)
    assert reading is not None
    assert reading.lines == (Line("hi", (300.0, 150.0, 600.0, 300.0), 0.8765),)


def test_rows_go_from_the_top_and_each_from_the_left() -> None:
    logo = line("logo", top=0, left=0, height=90)
    label, value = line("voltage", top=52, left=100), line("380 V", top=50, left=200)
    last, first = line("end", top=70, left=100), line("pump", top=20, left=100)
    assert reading_order([last, value, first, label, logo]) == [logo, first, label, value, last]


# In the job.


def test_the_rows_of_a_picture_with_text(desk: Desk) -> None:
    (desk.folder / "plate.png").write_bytes(picture("red"))
    (desk.folder / "plate.txt").write_text("The plate of the pump.")
    rows = {row["id"]: row for row in desk.parse()}
    document = rows.pop("corpus/plate.png")
    assert list(rows) == [f"corpus/plate.png#{part}" for part in ("img-0", "txt-0")]
    assert row_part(rows["corpus/plate.png#txt-0"]) == Part(
        "corpus/plate.png#txt-0",
        "chunk",
        "corpus/plate.png",
        str(desk.folder / "plate.png"),
        "The plate of the pump.\nPump LK-847\n380 V",
        image_ids=("corpus/plate.png#img-0",),
    )
    assert (document["kind"], document["num_parts"]) == (DOCUMENT, 2)


def test_a_failure_is_one_refused_row(desk: Desk) -> None:
    (desk.folder / "plate.png").write_bytes(picture("red"))
    desk.typist.is_broken = True
    rows = {row["id"]: row for row in desk.parse()}
    assert rows["corpus/plate.png#refused-0"]["stage"] == "ocr"
    assert rows["corpus/plate.png#img-0"]["reason"] is None
    assert rows["corpus/plate.png"]["num_parts"] == 2


def test_much_text_is_cut_into_chunks_whose_lines_are_those_that_were_read(desk: Desk) -> None:
    (desk.folder / "page.png").write_bytes(picture("red"))
    desk.typist.lines = [line(f"line {n} " + "word " * 10, top=20.0 * n) for n in range(30)]
    texts = [row["text"] for row in desk.parse() if row["kind"] == "chunk"]
    assert max(map(len, texts)) <= ChunkConfig().merge_chars
    [path] = (desk.root / "ocr").rglob("*.json")
    reading = load_reading(desk.root / "ocr", path.stem)
    assert reading is not None
    assert "\n".join(texts).split("\n") == [read.text for read in reading.lines]


def test_a_reader_travels_without_its_engine(desk: Desk) -> None:
    reader = ocr.picture_reader(desk.config, desk.root / "ocr", MIB)
    shipped = pickle.dumps(ParseItems(SourceConfig(), ChunkConfig(), reader))
    assert len(shipped) < 5000
    assert isinstance(pickle.loads(shipped), ParseItems)
    # By reference: every copy in a process asks for the one engine of it.
    assert pickle.loads(pickle.dumps(partial(ocr.load_engine, 640))).func is ocr.load_engine


def test_nothing_is_read_by_default() -> None:
    assert ocr.picture_reader(OcrConfig(), Path("ocr"), MIB) is None
    assert ocr.fingerprint(OcrConfig()) == {}


def test_every_setting_and_the_readers_version_decide_the_text() -> None:
    base = ocr.fingerprint(OcrConfig(kind="rapidocr"))
    assert "rapidocr 3.10.0" in base["ocr"]["reader"]
    for changed in ({"max_side": 2000}, {"min_confidence": 0.7}, {"max_chars": 10}):
        assert ocr.fingerprint(OcrConfig(kind="rapidocr", **changed)) != base


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_without_the_extra_one_line_names_it(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    ocr.require(OcrConfig())
    with pytest.raises(MissingDependency, match=r"'rapidocr' needs: pip install 'mmrag\[ocr\]'"):
        ocr.require(OcrConfig(kind="rapidocr"))


def test_a_model_that_is_not_in_the_wheel_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ocr._MODELS, "Rec", "PP-OCRv6_rec_medium.onnx")
    with pytest.raises(MissingDependency, match=r"rec_medium\.onnx is missing, and mmrag fetches no models"):
        ocr.RapidEngine(MAX_SIDE)


def test_a_picture_is_refused_once(desk: Desk) -> None:
    (desk.folder / "bad.png").write_bytes(b"no picture")
    caches = [VectorCache(desk.root / "v.sqlite", name) for name in ("vectors", "signs")]
    load = LoadPictures((2,), *caches, desk.root / "previews", desk.root / "ocr", MIB)
    rows = load(pa.Table.from_pylist(desk.parse())).to_pylist()
    assert [row["stage"] for row in rows if row["reason"]] == ["decode"]
