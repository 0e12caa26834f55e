"""OCR of a corpus's pictures, with a fake engine."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fakes import picture, png, take_away
from PIL import Image

from pipelines.core.cache import VectorCache
from pipelines.core.errors import BadReading
from pipelines.core.ocr import load_engine
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.readings import load_reading
from pipelines.core.types import Document, Line, Part, Passage
from pipelines.ingest import ocr
from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.listed import ITEMS
from pipelines.ingest.ocr import ReadPictures
from pipelines.ingest.rows import DOCUMENT, row_part
from pipelines.ingest.sources import Item, Parsed, SourceConfig, list_items
from pipelines.ingest.stages import LoadPictures, ParseItems

MIB = 2**20


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
    assert pickle.loads(pickle.dumps(partial(load_engine, 640))).func is load_engine


def test_nothing_is_read_by_default() -> None:
    assert ocr.picture_reader(OcrConfig(), Path("ocr"), MIB) is None
    assert ocr.fingerprint(OcrConfig()) == {}


def test_every_setting_and_the_readers_version_decide_the_text() -> None:
    base = ocr.fingerprint(OcrConfig(kind="rapidocr"))
    assert "rapidocr 3.10.0" in base["ocr"]["reader"]
    for changed in ({"max_side": 2000}, {"min_confidence": 0.7}, {"max_chars": 10}):
        assert ocr.fingerprint(OcrConfig(kind="rapidocr", **changed)) != base


def test_a_picture_is_refused_once(desk: Desk) -> None:
    (desk.folder / "bad.png").write_bytes(b"no picture")
    caches = [VectorCache(desk.root / "v.sqlite", name) for name in ("vectors", "signs")]
    load = LoadPictures((2,), *caches, desk.root / "previews", desk.root / "ocr", MIB)
    rows = load(pa.Table.from_pylist(desk.parse())).to_pylist()
    assert [row["stage"] for row in rows if row["reason"]] == ["decode"]
