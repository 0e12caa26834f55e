"""PDFs as sources: pages as text and pictures, and files that mean harm, each written here byte by byte."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from pipelines.core import images
from pipelines.core.errors import BadPart, BadText, MissingDependency
from pipelines.ingest.chunk import ChunkConfig, chunks
from pipelines.ingest.sources import Item, Parsed, Rejected, SourceConfig, list_items, parse, pdf, read_bytes

CONFIG = SourceConfig()
MIB = 2**20


def written(path: Path, *contents: bytes, size: str = "0 0 300 200", extra: bytes = b"") -> Path:
    """A PDF with a page for each content stream, which is stored deflated."""
    pages = range(3, 3 + 2 * len(contents), 2)
    kids = " ".join(f"{n} 0 R" for n in pages)
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        2: f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>".encode(),
    }
    for n, content in zip(pages, contents, strict=True):
        objects[n] = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{size}] /Contents {n + 1} 0 R "
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
        "print(json.dumps({'page': first, 'text': 't', 'is_cut': False}), flush=True)\nos.abort()\n"
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
    command = f"ulimit -t 1000; {sys.executable} -P {pdf.pdf_child.__file__} text 1 9 9 < {path}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[1])["text"] == "x"


def test_without_the_extra_one_line_names_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, line("x"))
    monkeypatch.setattr(pdf, "is_available", lambda: False)
    with pytest.raises(MissingDependency, match=r"pump\.pdf: PDF documents need: pip install 'mmrag\[pdf\]'"):
        list_items([str(path)], CONFIG)
    [rejected] = list_items([str(path.parent)], CONFIG)
    assert isinstance(rejected, Rejected)
    assert rejected.document_id == "manuals/pump.pdf"
    assert "pip install 'mmrag[pdf]'" in rejected.reason


def test_a_worker_without_the_extra_ends_the_job(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = path.parent / "missing.py"
    script.write_text("import sys\nprint('libm.so.6: no such file', file=sys.stderr)\nsys.exit(4)\n")
    monkeypatch.setattr(pdf.pdf_child, "__file__", str(script))
    written(path, line("x"))
    with pytest.raises(
        MissingDependency, match=r"pip install 'mmrag\[pdf\]', on every node \(libm\.so\.6: no such file\)"
    ):
        parsed(path)
    with pytest.raises(MissingDependency):
        read_bytes(f"{path}#page=1", MIB)
