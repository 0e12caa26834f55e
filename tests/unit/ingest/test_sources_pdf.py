"""PDFs as sources: pages as text and pictures, and files that mean harm, each written here byte by byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes import memory_index

from pipelines.core import images
from pipelines.core.errors import BadPart, BadText, MissingDependency, install_line
from pipelines.core.grounding import iou
from pipelines.core.readings import has_place, lines_of
from pipelines.core.retriever import Query, SearchConfig
from pipelines.ingest.chunk import ChunkConfig, chunks
from pipelines.ingest.listed import ITEMS
from pipelines.ingest.run import Run
from pipelines.ingest.sink import write_rows
from pipelines.ingest.sources import (
    Item,
    Parsed,
    Rejected,
    SourceConfig,
    files,
    list_items,
    parse,
    pdf,
    read_bytes,
)
from pipelines.ingest.stages import Encode, LoadPictures, ParseItems

CONFIG = SourceConfig()
MIB = 2**20
Box = tuple[float, float, float, float]


def written(
    path: Path, *contents: bytes, size: str = "0 0 300 200", page: str = "", extra: bytes = b""
) -> Path:
    """A PDF with a page for each content stream, which is stored deflated. `page` is said of each page."""
    pages = range(3, 3 + 2 * len(contents), 2)
    kids = " ".join(f"{n} 0 R" for n in pages)
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
    }
    for n, content in zip(pages, contents, strict=True):
        objects[n] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{size}] {page} /Contents {n + 1} 0 R "
            f"/Resources << /Font << /F {font} >> >> >>"
        ).encode()
        packed = zlib.compress(content, 9)
        head = f"<< /Length {len(packed)} /Filter /FlateDecode >>".encode()
        objects[n + 1] = head + b"\nstream\n" + packed + b"\nendstream"
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for n in sorted(objects):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (n, objects[n])
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    out += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, extra, start)
    path.write_bytes(out)
    return path


def line(text: str) -> bytes:
    return f"BT /F 18 Tf 20 100 Td ({text}) Tj ET".encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "manuals"
    folder.mkdir()
    return folder / "pump.pdf"


def parsed(path: Path, config: SourceConfig = CONFIG) -> Parsed:
    [item] = list_items([str(path)], config)
    assert isinstance(item, Item)
    return parse(item, config)


def test_each_page_is_a_picture_and_its_text_names_it(path: Path) -> None:
    read = parsed(written(path, line("The pump."), b"0 0 1 rg 20 20 99 99 re f", line("The valve.")))
    document = read.document
    assert not read.rejected
    assert (document.id, document.source) == ("manuals/pump.pdf", str(path))
    assert document.images == tuple(f"{path}#page={n}" for n in (1, 2, 3))
    assert document.captions == ("The pump.", "", "The valve.")
    assert [(p.text, p.images, p.source) for p in document.passages] == [
        ("The pump.", (0,), f"{path}#page=1"),
        ("The valve.", (2,), f"{path}#page=3"),
    ]


def test_chunks_of_two_pages_are_not_joined_and_cite_their_page(path: Path) -> None:
    document = parsed(written(path, line("Short."), line("Also short."))).document
    assert [(chunk.text, chunk.source) for chunk in chunks(document, ChunkConfig())] == [
        ("Short.", f"{path}#page=1"),
        ("Also short.", f"{path}#page=2"),
    ]


def test_a_pages_picture_shows_it_within_bounds(path: Path) -> None:
    written(path, b"0 0 1 rg 0 0 300 100 re f")
    picture = images.decode(read_bytes(f"{path}#page=1", MIB))
    assert picture.width / picture.height == pytest.approx(1.5, abs=0.01)
    assert picture.width == 1250  # 300 points at 300 dots an inch
    assert picture.image.getpixel((600, 100)) == (255, 255, 255)
    assert picture.image.getpixel((600, 700)) == (0, 0, 255)


@pytest.mark.parametrize("size", ["0 0 14400 14400", "0 0 14400 1", "0 0 1e9 1e9", "0 0 0 0", "0 0 -5 nan"])
def test_a_page_of_any_size_has_a_picture_of_bounded_size(path: Path, size: str) -> None:
    written(path, line("x"), size=size)
    picture = images.decode(read_bytes(f"{path}#page=1", MIB))
    assert max(picture.width, picture.height) <= images.PREVIEW_SIDE + 1


# Where text stands.

_RED, _BLUE = "1 0 0 rg", "0 0 1 rg"


def drawn(*lines: tuple[str, int, int, str]) -> bytes:
    """A page of lines: each its text, where it begins, and its colour."""
    shown = (f"{colour} 1 0 0 1 {x} {y} Tm ({text}) Tj" for text, x, y, colour in lines)
    return f"BT /F 18 Tf {' '.join(shown)} ET".encode()


def ink(path: Path, channel: int) -> Box:
    """Around all that the first page's picture shows in red (0) or blue (2)."""
    pixels_HWC = np.asarray(images.decode(read_bytes(f"{path}#page=1", 16 * MIB)).image).astype(int)
    rows, columns = np.nonzero(pixels_HWC[..., channel] - pixels_HWC[..., 2 - channel] > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("turned", ["", "/Rotate 90", "/Rotate 180", "/Rotate -90"])
@pytest.mark.parametrize(
    ("size", "cut"),
    [
        ("0 0 300 200", ""),
        ("0 0 300 200", "/CropBox [10 60 250 190]"),
        ("-40 20 300 2000", "/CropBox [-50 -50 5000 190]"),
        ("0 0 4000 220", ""),
    ],
)
def test_a_pages_lines_have_boxes_where_they_are_drawn(path: Path, size: str, cut: str, turned: str) -> None:
    content = drawn(("Loosen four bolts.", 20, 120, _RED), ("Hang the cover up", 30, 80, _BLUE))
    written(path, content, size=size, page=f"{turned} {cut}")
    [lines] = parsed(path).document.readings
    assert [(line.text, line.confidence) for line in lines] == [
        ("Loosen four bolts.", 1.0),
        ("Hang the cover up", 1.0),
    ]
    overlaps = [iou(line.xyxy, ink(path, channel)) for line, channel in zip(lines, (0, 2), strict=True)]
    assert min(overlaps) > 0.7, overlaps


def test_a_line_that_is_partly_cut_off_has_the_box_of_what_shows(path: Path) -> None:
    content = drawn(("Loosen four bolts.", 20, 120, _RED))
    written(path, content, page="/CropBox [60 0 120 200]")
    [[line]] = parsed(path).document.readings
    assert iou(line.xyxy, ink(path, 0)) > 0.7


def test_a_line_outside_of_its_page_has_no_box_and_takes_none_from_others(path: Path) -> None:
    content = drawn(("Seen above.", 20, 150, _RED), ("Unseen.", 20, -90, _RED), ("Seen below.", 20, 50, _RED))
    document = parsed(written(path, content)).document
    [lines] = document.readings
    assert [has_place(line) for line in lines] == [True, False, True]
    [chunk] = chunks(document, ChunkConfig())
    assert [line.text for line in lines_of(chunk.text, lines)] == ["Seen above.", "Seen below."]
    written(path, drawn(("Unseen.", 20, -90, _RED)))
    assert parsed(path).document.readings == ((),)


def test_every_chunk_of_a_long_page_goes_over_its_own_lines(path: Path) -> None:
    said = [f"Step {n} of the work takes a while and ends here." for n in range(40)]
    content = drawn(*((text, 20, 1000 - 20 * n, _RED) for n, text in enumerate(said)))
    document = parsed(written(path, content, size="0 0 600 1050")).document
    [lines] = document.readings
    assert [line.text for line in lines] == said
    made = chunks(document, ChunkConfig())
    assert len(made) > 2
    shown = [line for chunk in made for line in lines_of(chunk.text, lines)]
    assert shown == list(lines)


def test_a_word_that_is_parted_at_a_lines_end_is_one_word_on_two_lines(path: Path) -> None:
    content = drawn(("Loosen the con-", 20, 120, _RED), ("nectors of it.", 20, 95, _BLUE))
    document = parsed(written(path, content)).document
    [lines] = document.readings
    assert [passage.text for passage in document.passages] == ["Loosen the connectors of it."]
    assert [line.text for line in lines] == ["Loosen the con", "nectors of it."]
    assert lines_of("Loosen the connectors of it.", lines) == lines
    assert iou(lines[1].xyxy, ink(path, 2)) > 0.7


def test_a_page_of_any_number_of_lines_has_boxes_for_a_bounded_one(path: Path) -> None:
    content = drawn(*(("line", 20, 20 * n, _RED) for n in range(3000)))
    document = parsed(written(path, content, size="0 0 300 60000")).document
    assert [len(lines) for lines in document.readings] == [2000]
    assert sum(len(passage.text) for passage in document.passages) > 3000 * len("line")


def test_a_hit_of_a_pages_text_shows_the_page_and_where_its_lines_stand(path: Path) -> None:
    content = drawn(("Loosen four bolts.", 20, 120, _RED), ("Hang the cover up", 30, 80, _BLUE))
    written(path, content, b"0 1 0 rg 20 20 99 99 re f")
    items = [asdict(item) for item in list_items([str(path)], CONFIG) if isinstance(item, Item)]
    rows = ParseItems(CONFIG, ChunkConfig())(pa.Table.from_pylist(items, schema=ITEMS))
    index = memory_index(path.parent / "kb")
    images_cache, signs, texts = (index.cache(name) for name in ("images", "signs", "texts"))
    load = LoadPictures(index.encoder().scales, images_cache, signs, index.previews, index.readings, MIB)
    run = Run(index.home, "run", "")
    run.begin()
    write_rows(Encode(index.encoder, index.embedder, images_cache, texts)(load(rows)), index, run)
    with index:
        hit = index.retriever(SearchConfig()).search(Query("four bolts")).hits[0]
    assert (hit.kind, hit.source) == ("image", f"{path}#page=1")
    assert [line.text for line in hit.lines] == ["Loosen four bolts.", "Hang the cover up"]
    assert iou(hit.lines[0].xyxy, ink(path, 0)) > 0.7
    assert iou(hit.lines[1].xyxy, ink(path, 2)) > 0.7


def test_the_same_page_is_the_same_bytes(path: Path) -> None:
    written(path, line("x"))
    assert read_bytes(f"{path}#page=1", MIB) == read_bytes(f"{path}#page=1", MIB)


def test_a_folders_pdfs_are_documents(path: Path) -> None:
    written(path, line("x"))
    (path.parent / "index.html").write_text("<p>Hello</p>")
    found = list_items([str(path.parent)], CONFIG)
    assert [item.document_id for item in found] == ["manuals/index.html", "manuals/pump.pdf"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "no readable PDF"),
        (b"%PDF-1.7\n%%EOF", "no readable PDF"),
        (b"%PDF-1.7\n" + b"1 0 obj << /Kids [" * 5000, "no readable PDF"),
    ],
)
def test_a_file_that_is_no_pdf_is_one_clear_line(path: Path, raw: bytes, reason: str) -> None:
    path.write_bytes(raw)
    with pytest.raises(BadText, match=reason) as error:
        parsed(path)
    assert "pump.pdf" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(BadPart, match=reason):
        read_bytes(f"{path}#page=1", MIB)


def test_a_locked_pdf_says_so(path: Path) -> None:
    lock = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00><00>]"
    written(path, line("x"), extra=lock % (b"11" * 32, b"22" * 32))
    with pytest.raises(BadText, match="is locked by a password; save it without"):
        parsed(path)


def test_a_pdf_beyond_the_bound_is_not_read(path: Path) -> None:
    written(path, line("x"))
    with pytest.raises(BadText, match="more than the 100 allowed"):
        parsed(path, SourceConfig(max_file_bytes=100))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of files that were read, one a reading."""
    readings: list[str] = []
    original = files.read_bytes

    def counted(address: str, max_bytes: int) -> bytes:
        readings.append(address)
        return original(address, max_bytes)

    monkeypatch.setattr(files, "read_bytes", counted)
    return readings


def test_a_remote_pdf_is_read_once_for_all_its_pages(path: Path, readings: list[str]) -> None:
    written(path, line("one"), line("two"), line("three"))
    os.utime(path, (1000, 1000))
    far = f"fsspec+file://{path}"
    config = SourceConfig(allowed_addresses=("fsspec+file://",))
    [item] = list_items([far], config)
    assert isinstance(item, Item)
    images_ = parse(item, config).document.images
    pages = [read_bytes(address, config.max_file_bytes) for address in images_]
    assert (len(set(pages)), readings) == (3, [far])
    written(path, line("another"))
    os.utime(path, (2000, 2000))
    assert read_bytes(images_[0], config.max_file_bytes) not in pages
    assert readings == [far, far]


def test_a_large_pdf_and_one_that_may_still_change_are_not_held(
    path: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    far = f"fsspec+file://{written(path, line('one'))}"
    read_bytes(f"{far}#page=1", MIB)
    read_bytes(f"{far}#page=1", MIB)
    assert len(readings) == 2  # it was written just now
    os.utime(path, (1000, 1000))
    monkeypatch.setattr(pdf, "_MAX_HELD_BYTES", 100)
    read_bytes(f"{far}#page=1", MIB)
    read_bytes(f"{far}#page=1", MIB)
    assert len(readings) == 4


def test_a_page_that_is_not_there_is_refused(path: Path) -> None:
    written(path, line("x"))
    for number in (0, 2, 10**17):
        with pytest.raises(BadPart, match="has 1 pages, and no page"):
            read_bytes(f"{path}#page={number}", MIB)


def test_text_beyond_the_bound_is_left_out_and_told_once(path: Path) -> None:
    read = parsed(written(path, *(line("word " * 20),) * 4), SourceConfig(max_text_bytes=150))
    assert len(read.document.images) == 4
    assert sum(len(passage.text) for passage in read.document.passages) <= 150
    [rejected] = read.rejected
    assert rejected.reason == "pump.pdf: page 2: text from here on is left out (max_text_bytes)"


def test_pages_beyond_the_bound_are_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_MAX_PAGES", 2)
    read = parsed(written(path, *(line("x"),) * 3))
    assert len(read.document.images) == 2
    assert "has 3 pages, of which 2 are read" in read.rejected[0].reason


def test_a_page_that_wants_all_memory_costs_itself(path: Path) -> None:
    # 0.3 MB that say "write a letter" twenty million times.
    bomb = b"BT /F 1 Tf " + b"(a) Tj " * 20_000_000 + b"ET"
    written(path, line("Before."), bomb, line("After."))
    assert path.stat().st_size < MIB
    read = parsed(path)
    assert [passage.text for passage in read.document.passages] == ["Before.", "After."]
    assert read.document.images == (f"{path}#page=1", f"{path}#page=3")
    [rejected] = read.rejected
    assert rejected.reason.startswith("pump.pdf: page 2")
    with pytest.raises(BadPart, match="page 2"):
        read_bytes(f"{path}#page=2", MIB)


def test_when_the_process_dies_again_and_again_the_rest_is_left_out(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = path.parent / "dies.py"
    script.write_text(
        "import json, os, sys\nsys.stdin.buffer.read()\nprint(json.dumps({'pages': 99}))\n"
        "first = int(sys.argv[2])\n"
        "fact = {'page': first, 'text': 't', 'is_cut': False, 'lines': []}\n"
        "print(json.dumps(fact), flush=True)\nos.abort()\n"
    )
    monkeypatch.setattr(pdf.pdf_child, "__file__", str(script))
    read = parsed(written(path, line("x")))
    assert read.document.images == tuple(f"{path}#page={n}" for n in (1, 3, 5, 7, 9))
    assert len(read.rejected) == 5
    assert "page 10 takes more than" in read.rejected[-1].reason
    assert "all pages after it are left out" in read.rejected[-1].reason


def test_a_process_that_never_ends_is_ended(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = path.parent / "waits.py"
    script.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(pdf.pdf_child, "__file__", str(script))
    monkeypatch.setattr(pdf, "_WAIT_S", 0.2)
    written(path, line("x"))
    with pytest.raises(BadText, match="takes more than"):
        parsed(path)


def test_a_process_that_fails_in_another_way_says_how(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = path.parent / "fails.py"
    script.write_text("raise OverflowError('too large')\n")
    monkeypatch.setattr(pdf.pdf_child, "__file__", str(script))
    written(path, line("x"))
    with pytest.raises(BadText, match=r"pump\.pdf: OverflowError: too large"):
        parsed(path)


def test_a_machine_that_bounds_computing_time_itself_reads_pdfs_too(path: Path) -> None:
    written(path, line("x"))
    command = f"ulimit -t 1000; {sys.executable} -P {pdf.pdf_child.__file__} text 1 9 9 99 < {path}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[1])["text"] == "x"


def test_without_the_extra_one_line_names_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, line("x"))
    monkeypatch.setattr(pdf, "is_available", lambda: False)
    with pytest.raises(MissingDependency, match=r"pump\.pdf: PDF documents need: pip install .* '\.\[pdf\]'"):
        list_items([str(path)], CONFIG)
    [rejected] = list_items([str(path.parent)], CONFIG)
    assert isinstance(rejected, Rejected)
    assert rejected.document_id == "manuals/pump.pdf"
    assert install_line("pdf") in rejected.reason


def test_a_worker_without_the_extra_ends_the_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = path.parent / "missing.py"
    script.write_text("import sys\nprint('libm.so.6: no such file', file=sys.stderr)\nsys.exit(4)\n")
    monkeypatch.setattr(pdf.pdf_child, "__file__", str(script))
    written(path, line("x"))
    with pytest.raises(
        MissingDependency, match=r"'\.\[pdf\]' in a clone .*, on every node \(libm\.so\.6: no such file\)"
    ):
        parsed(path)
    with pytest.raises(MissingDependency):
        read_bytes(f"{path}#page=1", MIB)
