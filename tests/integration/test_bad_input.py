"""Bad input through the command line: bad files beside good ones, and wrong settings."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import photograph, png
from ingest_workshop import TWO_SCALES
from shell import Answer, mmrag

from pipelines.core.stores import embedded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NOTES = {"note-1.txt": "The cooler has a hole spacing of 48 mm.", "note-2.txt": "散热器的孔距是四十八毫米。"}
GOOD_PICTURES = ("good-1.png", "good-2.png", "good-3.jpg")


def complaint(answer: Answer) -> str:
    """The one line in which a command says what is wrong."""
    lines = [line for line in answer.err.splitlines() if line.startswith("mmrag: ")]
    assert len(lines) == 1, answer.err
    assert "Traceback" not in answer.err
    return lines[0]


def huge_png(side: int = 50_000) -> bytes:
    """A PNG that says that it is side × side, in a few bytes."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", body) + piece(b"IEND", b"")


def a_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.txt", "hello")
    return file.getvalue()


def write_corpus(root: Path) -> tuple[Path, list[str]]:
    """A folder of good and bad files, and the names of the bad ones."""
    folder = root / "corpus"
    folder.mkdir()
    for n, name in enumerate(GOOD_PICTURES):
        photograph(n, 64).save(folder / name)
    for name, text in NOTES.items():
        (folder / name).write_text(text)
    outside = root / "secret.png"
    outside.write_bytes(png(photograph(7, 64)))
    bad = {
        "empty.png": b"",
        "truncated.png": png(photograph(8, 64))[:400],
        "zip.jpg": a_zip(),
        "text.png": b"only text",
        "huge.png": huge_png(),
        "latin-1.txt": "caf\xe9 \x81\x8d cr\xe8me".encode("latin-1"),
        "long.txt": b"ten megabytes " * 750_000,
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / "link.png").symlink_to(outside)
    (folder / "directory.png").mkdir()
    return folder, [*bad, "link.png", "directory.png"]


@dataclass
class Ingested:
    folder: Path
    index: Path
    bad: list[str]
    options: list[str]
    answer: Answer

    def search(self, *arguments: object) -> Answer:
        return mmrag("search", *self.options, "--index", self.index, "--json", *arguments)

    def letters(self) -> list[dict[str, str]]:
        run = json.loads(self.answer.out)["run"]
        return pq.read_table(self.index / "rejected" / f"{run}.parquet").to_pylist()


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingested]:
    root = tmp_path_factory.mktemp("bad-input")
    folder, bad = write_corpus(root)
    # A manifest of its own: rows that lack what they need, and ids that occur twice.
    manifest = folder.parent / "products.jsonl"
    rows = [
        {"id": "cooler", "image": "corpus/good-1.png", "text": "A quiet cooler.", "year": 2020},
        {"id": "cooler", "text": "The same id again."},
        {"id": "nothing"},
        {"text": "a text of nobody"},
        {"id": "no-picture", "image": "corpus/nowhere.png"},
        {"id": "escapes", "image": "../../etc/passwd"},
        {"id": "wrong-year", "text": "An old cooler.", "year": "old"},
        {"id": "long-note", "text": "A cooler with a story.", "note": "x" * 10_000},
    ]
    lines = [json.dumps(row) for row in rows] + ["{broken"]
    manifest.write_text("\n".join(lines))
    options = [word for value in TWO_SCALES for word in ("--set", value)]
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "ingest", folder, manifest]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [*map(str, command), "--index", str(root / "kb"), "--json", *options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    answer = Answer(done.returncode, done.stdout, done.stderr)
    yield Ingested(folder, root / "kb", bad, options, answer)
    for server in (root / "kb" / "vectors").iterdir():
        embedded.stop(server)


def test_bad_rows_make_status_3_and_one_object_on_stdout(ingested: Ingested) -> None:
    assert ingested.answer.status == 3, ingested.answer.err
    assert ingested.answer.out.count("\n") == 1
    assert "Traceback" not in ingested.answer.err


def test_each_bad_file_is_exactly_one_dead_letter_that_names_it(ingested: Ingested) -> None:
    letters = ingested.letters()
    for name in ingested.bad:
        named = [letter for letter in letters if letter["document_id"] == f"corpus/{name}"]
        assert len(named) == 1, (name, named)
        assert name in named[0]["reason"]
        assert len(named[0]["reason"]) < 400
        assert "\n" not in named[0]["reason"]


def test_each_bad_row_is_one_dead_letter(ingested: Ingested) -> None:
    letters = ingested.letters()
    reasons = [letter["reason"] for letter in letters if not letter["document_id"].startswith("corpus/")]
    for said in (
        "occurs before in this run",
        "has neither 'image' (or 'images') nor 'text'",
        "has no 'id' and no 'image' that could name it",
        "nowhere.png",
        "etc/passwd",
        "year is a str here ('old') but a number in the index",
        "metadata 'note'",
        "broken JSON",
    ):
        assert len([reason for reason in reasons if said in reason]) == 1, (said, reasons)


def test_nothing_else_is_a_dead_letter(ingested: Ingested) -> None:
    assert json.loads(ingested.answer.out)["rejected"] == len(ingested.letters()) == len(ingested.bad) + 8


@pytest.mark.parametrize("name", GOOD_PICTURES)
def test_every_good_picture_is_found_by_itself(ingested: Ingested, name: str) -> None:
    answer = ingested.search("--image", ingested.folder / name, "-k", 2)
    found = {hit["document_id"] for hit in json.loads(answer.out)["hits"]}
    assert f"corpus/{name}" in found
    assert json.loads(answer.out)["degraded"] == []


@pytest.mark.parametrize(
    ("question", "document"),
    [("hole spacing of the cooler", "corpus/note-1.txt"), ("散热器的孔距", "corpus/note-2.txt")],
)
def test_every_good_text_is_found(ingested: Ingested, question: str, document: str) -> None:
    hits = json.loads(ingested.search(question, "--mode", "text").out)["hits"]
    assert document in [hit["document_id"] for hit in hits][:6]


def test_a_document_keeps_its_good_parts(ingested: Ingested) -> None:
    hits = json.loads(ingested.search("a quiet cooler", "--filter", "year == 2020").out)["hits"]
    assert [hit["id"] for hit in hits] == ["cooler#img-0"]
    assert hits[0]["text"] == "A quiet cooler."


def test_an_unknown_filter_field_is_named(ingested: Ingested) -> None:
    answer = ingested.search("cooler", "--filter", "yaer == 2020")
    assert answer.status == 2
    assert "'yaer'; did you mean year?" in complaint(answer)


def test_an_index_written_with_another_space_is_refused_with_the_difference(ingested: Ingested) -> None:
    answer = ingested.search("cooler", "--set", "encoder.scales=[64]")
    assert answer.status == 2
    said = complaint(answer)
    assert "scales: index [64, 96], config [64]" in said
    assert "--index" in said


def test_ingesting_into_an_index_of_another_space_is_refused(ingested: Ingested) -> None:
    options = [*ingested.options, "--set", "encoder.scales=[64]"]
    answer = mmrag("ingest", ingested.folder, "--index", ingested.index, *options)
    assert answer.status == 2
    assert "scales" in complaint(answer)


def test_a_store_that_is_not_running_is_named(ingested: Ingested) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        down = ["--set", f"stores.milvus.uri={uri}", "--set", "stores.milvus.timeout_s=2"]
        partly = ingested.search("cooler", *down)
        answer = ingested.search("--image", ingested.folder / "good-1.png", *down)
    assert partly.status == 0
    assert {said.split(":")[0] for said in json.loads(partly.out)["degraded"]} >= {"text_to_image", "text"}
    assert json.loads(partly.out)["hits"]
    assert answer.status == 1
    assert uri in complaint(answer)
