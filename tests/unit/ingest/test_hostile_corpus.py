"""The job's own steps, one after another in one process, over a corpus of hostile and broken inputs."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import memory_index, picture, take_away
from hostile_corpus import HostileCorpus
from hostile_inputs import write_hostile_corpus

from pipelines.core.errors import SourceError
from pipelines.core.index import Index
from pipelines.ingest import metadata
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import fingerprint_of, make_plan
from pipelines.ingest.rows import DOCUMENT
from pipelines.ingest.run import Run
from pipelines.ingest.sink import Finished, finish, write_rows
from pipelines.ingest.sources import list_items
from pipelines.ingest.stages import CheckParts, Encode, LoadPictures, ParseItems

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::UserWarning")]
CONFIG = IngestConfig()
BLOCK_ROWS = 64
READABLE = re.compile(r"(?!.*(NoneType|<class|Traceback|Error\b|sys\.|\b0x)).{12,400}")  # by people


@dataclass
class Job:
    """What `ingest.job` does, without Ray."""

    index: Index
    corpus: HostileCorpus
    types: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, *, retry_rejected: bool = False) -> Finished:
        index, sources = self.index, CONFIG.sources
        ledger, run = self.ledger(), Run(index.home, name, fingerprint_of(index, CONFIG))
        run.begin()
        listing = list_items(self.corpus.sources, sources)
        plan = make_plan(
            listing,
            ledger,
            run.fingerprint,
            run.items,
            retry_rejected=retry_rejected,
            config=sources,
        )
        if plan.to_do:
            for batch in pq.read_table(run.items).to_batches(BLOCK_ROWS):
                write_rows(self.encoded(ParseItems(sources, CONFIG.chunking)(batch)), index, run)
        return finish(index, run, ledger, plan.refused)[1]

    def encoded(self, rows: pa.Table) -> pa.Table:
        index = self.index
        images, signs, texts = (index.cache(name) for name in ("images", "signs", "texts"))
        documents = [row for row in rows.to_pylist() if row["kind"] == DOCUMENT]
        said = ((row["place"], json.loads(row["metadata"])) for row in documents)
        self.types = metadata.extend(self.types, said)
        max_bytes = CONFIG.sources.max_file_bytes
        load = LoadPictures(index.encoder().scales, images, signs, index.previews, index.readings, max_bytes)
        return Encode(index.encoder, index.embedder, images, texts)(load(CheckParts(self.types)(rows)))

    def ledger(self) -> Ledger:
        return Ledger.load(self.index.home)

    def rows(self) -> list[dict[str, Any]]:
        return [row for table in self.ledger().tables() for row in table.to_pylist()]

    def letters(self, name: str) -> list[dict[str, str]]:
        return pq.read_table(self.index.directory / "rejected" / f"{name}.parquet").to_pylist()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("hostile")
    return Job(memory_index(root / "kb"), write_hostile_corpus(root / "hostile"))


def test_it_is_large_enough_and_the_same_for_a_seed(job: Job, tmp_path: Path) -> None:
    assert len(job.corpus.expected) >= 300
    again = write_hostile_corpus(tmp_path / "hostile")
    assert again.expected == job.corpus.expected


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_every_input_is_used_or_refused_with_a_reason_in_bounded_memory(job: Job) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before_bytes = memory_bytes("VmRSS")
    done = job.run("first")
    peak_bytes = memory_bytes("VmHWM") - before_bytes
    letters = job.letters("first")
    assert job.corpus.complaints(job.rows(), letters) == []
    assert done.unfinished == 0
    assert job.index.visual().count() == done.images
    stages = {"list", "parse", "forbidden", "read", "decode", "metadata", "store"}
    assert {letter["stage"] for letter in letters} == stages
    assert [r for r in {letter["reason"] for letter in letters} if not READABLE.fullmatch(r)] == []
    assert peak_bytes < 300e6


def test_what_was_refused_is_taken_up_again_and_nothing_else(job: Job) -> None:
    before = job.rows()
    listing = {letter["document_id"] for letter in job.letters("first") if letter["stage"] == "list"}
    assert job.run("again").documents == 0
    assert {letter["document_id"] for letter in job.letters("again")} == listing
    retried = job.run("retried", retry_rejected=True)
    assert retried.documents == sum(row["rejected"] > 0 for row in before)
    assert job.corpus.complaints(job.rows(), job.letters("retried")) == []


def test_documents_of_a_manifest_that_broke_are_kept(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("broken.csv", "sound.csv")]
    for path in paths:
        path.write_text(f"id,text\n{path.stem},Text\n")
    job = Job(memory_index(tmp_path / "kb"), HostileCorpus(tuple(map(str, paths)), (), ()))
    job.run("first")
    paths[0].write_bytes(b"")
    plan = make_plan(list_items(job.corpus.sources, CONFIG.sources), job.ledger(), "f")
    assert [bad.reason for bad in plan.refused] == [f"{paths[0]}: is empty (0 bytes)"]
    assert plan.gone_keys == ()
    with pytest.raises(SourceError, match="is empty"):
        list(list_items(job.corpus.sources, CONFIG.sources, whole=True))


@pytest.mark.parametrize("name", ["a.png", "a.txt", "a.pdf", "a.html"])
def test_a_file_of_a_terabyte_is_refused_by_its_size_and_unchanged_then(tmp_path: Path, name: str) -> None:
    (tmp_path / "corpus").mkdir()
    path = tmp_path / "corpus" / name
    job = Job(memory_index(tmp_path / "kb"), HostileCorpus((str(tmp_path / "corpus"),), (), ()))
    for run in ("first", "touched"):
        with path.open("wb") as file:
            file.truncate(2**40)
        plan = job.run(run)
        assert (plan.documents, plan.unfinished) == ((1, 0) if run == "first" else (0, 0))
    [letter] = job.letters("first")
    assert "has 1,099,511,627,776 bytes, more than the" in letter["reason"]
    assert [row["status"] for row in job.rows()] == ["rejected"]
    path.unlink()
    path.write_text("A note that is short enough")
    assert job.run("mended").documents == 1


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("picture.png", "open"),
        ("note.txt", "open"),
        ("rows.png", "open"),
        ("picture.png", "stat"),
        ("rows.png", "stat"),
    ],
)
def test_what_storage_did_not_give_is_taken_up_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, call: str
) -> None:
    corpus, manifest = tmp_path / "corpus", tmp_path / "rows" / "rows.csv"
    for folder in (corpus, manifest.parent):
        folder.mkdir()
    (corpus / "picture.png").write_bytes(picture("red"))
    (corpus / "note.txt").write_text("A note")
    (manifest.parent / "rows.png").write_bytes(picture("blue"))
    manifest.write_text("id,image,text\nrow,rows.png,Text\n")
    hour_ago = time.time() - 3600
    for path in (*corpus.iterdir(), *manifest.parent.iterdir()):
        os.utime(path, (hour_ago, hour_ago))
    time.sleep(2.1)  # their stamps count from then on
    job = Job(memory_index(tmp_path / "kb"), HostileCorpus((str(corpus), str(manifest)), (), ()))
    with monkeypatch.context() as patched:
        take_away(patched, name, call)
        first = job.run("first")
    assert (first.documents, first.unfinished) == (2, 1)
    (letter,) = job.letters("first")
    assert (letter["stage"], "timed out" in letter["reason"]) == ("unavailable", True)
    second = job.run("second")
    assert (second.documents, second.unfinished, second.rejected) == (1, 0, 0)
    assert {row["status"] for row in job.rows()} == {"complete"}
    assert (job.index.visual().count(), job.index.text().count()) == (2, 2)


def memory_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
