"""The real ingest job on a local Ray, over a small folder: one run seen from all sides, and its sequels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import ray.data
from chat_server import Scripted, completion
from fakes import photograph, png
from hostile_inputs import write_hostile_corpus
from prometheus_client.parser import text_string_to_metric_families
from ray.exceptions import ActorDiedError, RayTaskError

from benchmarks.processes import below, command, vector_servers
from benchmarks.stored import Rows, differences, stored
from benchmarks.two_nodes import SETTINGS, TwoNodes
from pipelines.core.errors import IndexLocked, MmragError, SourceError, UsageError
from pipelines.core.index import Index
from pipelines.core.ray_runtime import ray_runtime
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.stores import embedded
from pipelines.core.types import store_key
from pipelines.ingest import job, listed
from pipelines.ingest import ledger as ledgers
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.dry_run import DryRun, dry_run
from pipelines.ingest.job import ingest
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.status import index_status
from pipelines.ingest.summary import Summary
from pipelines.settings import Settings, load_settings
from tests.contracts.servers import elastic_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LONG_TEXT = "\n\n".join(
    f"Paragraph {n}: " + "the hole spacing of the cooler is 48 mm. " * 15 for n in range(4)
)


def write_corpus(folder: Path) -> Path:
    """Eight documents: five good pictures, one of them twice, a bad one, and one in conflict."""
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / f"p{n}.png").write_bytes(png(photograph(n, 64)))
    (folder / "p4-again.png").write_bytes((folder / "p4.png").read_bytes())
    (folder / "bad.png").write_bytes(b"PK\3\4 a zip")
    (folder / "p0.txt").write_text(LONG_TEXT)
    (folder / "p1.txt").write_text("红色的散热器")
    (folder / "p0.json").write_text(json.dumps({"year": 2020}))
    (folder / "x-conflict.png").write_bytes(png(photograph(9, 64)))
    (folder / "x-conflict.json").write_text(json.dumps({"year": "new"}))
    return folder


@dataclass
class Workshop:
    """A corpus, its index, and the settings of both."""

    corpus: Path
    directory: Path
    settings: Settings
    assignments: list[str]

    def ingest(self, **options: Any) -> Summary:
        return ingest(
            [str(self.corpus)], self.directory, self.settings.index, self.settings.ingest, **options
        )

    def dry_run(self, **options: bool) -> DryRun:
        return dry_run(
            [str(self.corpus)], self.directory, self.settings.index, self.settings.ingest, **options
        )

    def open(self) -> Index:
        return Index(self.directory, self.settings.index)

    def stored(self) -> dict[str, Rows]:
        with self.open() as index:
            return stored(index)

    def contents(self) -> dict[str, Any]:
        """Everything that the stores hold but vectors, in a form that two indexes can be compared by."""
        with self.open() as index:
            manifest = index.manifest()
            vectors = [
                np.eye(1, space["dim"], dtype=np.float32)[0]
                for space in (manifest.space, manifest.text_space)
            ]
            pictures = [found.part for found in index.visual().search(vectors[0], 100)]
            chunks = [found.part for found in index.text().search(vectors[1], 100)]
            return {
                "pictures": {part.id: part.content for part in pictures},
                "chunks": {part.id: part.text for part in chunks},
                "lexical": sorted(p.id for p in index.lexical().fetch([c.key for c in chunks]).values()),
                "status": {name: index_status(index)[name] for name in ("stores", "expected")},
            }

    def ledger(self) -> dict[str, dict[str, Any]]:
        tables = Ledger.load(self.directory).tables()
        return {row["document_id"]: row for table in tables for row in table.to_pylist()}

    def stop(self) -> None:
        for server in (self.directory / "vectors").iterdir():
            embedded.stop(server)


def workshop(root: Path, clip_settings: list[str], *more: str) -> Workshop:
    assignments = [*clip_settings, *more]
    return Workshop(write_corpus(root / "corpus"), root / "kb", load_settings(None, assignments), assignments)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_metrics_report_interval_ms", "1000")  # of its processes to Ray's agent
        with ray_runtime(cpus=2):
            yield


@pytest.fixture(scope="module")
def first(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory, clip_settings: list[str]
) -> Iterator[tuple[Workshop, Summary, dict[str, Any]]]:
    """One whole run. Its index is not changed by any test; those that go on work on a copy."""
    made = workshop(tmp_path_factory.mktemp("first"), clip_settings)
    summary = made.ingest()
    yield made, summary, made.contents()
    made.stop()


# One run.


def test_the_summary_counts_what_the_folder_holds(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    _, summary, contents = first
    assert (summary.documents, summary.unchanged) == (8, 0)
    assert summary.images == 6
    assert summary.chunks == len(contents["chunks"]) >= 4
    assert summary.rejected == 2
    assert summary.index["status"] == {"complete": 6, "rejected": 2}
    assert (summary.same_pictures, summary.near_duplicates) == (1, 0)  # p4-again, of p4
    assert summary.elapsed_s > 0
    assert {"parse", "load", "encode", "write"} <= summary.stage_s.keys()


def exported() -> dict[tuple[str, ...], float]:
    """Our samples at the address where Prometheus finds them, by name and labels, over all processes."""
    [node] = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    totals: Counter[tuple[str, ...]] = Counter()
    for family in text_string_to_metric_families(httpx.get(url, timeout=10).text):
        for sample in family.samples:
            labels = (sample.labels[name] for name in ("kind", "stage", "store") if name in sample.labels)
            if sample.name.startswith("ray_mmrag_") and "le" not in sample.labels:
                totals[sample.name, *labels] += sample.value
    return totals


def test_prometheus_is_told_what_the_summary_counts(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    """The first run alone: no other has used this Ray yet."""
    summary = first[1]
    counts = {
        ("ray_mmrag_ingest_documents_total",): summary.documents,
        ("ray_mmrag_ingest_parts_total", "image"): summary.images,
        ("ray_mmrag_ingest_parts_total", "chunk"): summary.chunks,
        ("ray_mmrag_ingest_rejected_total", "decode"): 1,
        ("ray_mmrag_ingest_rejected_total", "metadata"): 1,
    }
    times = {
        ("ray_mmrag_ingest_encode_seconds_count",),
        *(("ray_mmrag_ingest_upsert_seconds_count", store) for store in ("visual", "text", "lexical")),
    }
    deadline = time.monotonic() + 60
    while not (found := exported()).items() >= counts.items() or not found.keys() >= times:
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    assert all(1 <= found[key] <= summary.documents for key in times)


def test_the_stores_hold_what_the_ledger_says(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    contents = first[2]
    names = ["p0", "p1", "p2", "p3", "p4", "p4-again"]
    assert sorted(contents["pictures"]) == sorted(f"corpus/{name}.png#img-0" for name in names)
    assert contents["lexical"] == sorted(contents["chunks"])
    assert contents["status"]["stores"] == contents["status"]["expected"]
    assert contents["chunks"]["corpus/p1.png#txt-0"] == "红色的散热器"


def test_one_picture_in_two_documents_is_encoded_once(
    first: tuple[Workshop, Summary, dict[str, Any]],
) -> None:
    _, summary, contents = first
    assert summary.encoded_images == 5
    pictures = contents["pictures"]
    assert pictures["corpus/p4.png#img-0"] == pictures["corpus/p4-again.png#img-0"]


@pytest.mark.parametrize(("how", "copies"), [("show", 2), ("collapse", 1)])
def test_a_search_shows_both_or_one_of_pictures_that_look_the_same(
    first: tuple[Workshop, Summary, dict[str, Any]], how: Literal["show", "collapse"], copies: int
) -> None:
    made = first[0]
    query = Query(image=png(photograph(4, 64)), k=5)
    with made.open() as index:
        hits = index.retriever(SearchConfig(near_duplicates=how)).search(query).hits
    names = [Path(hit.document_id).stem for hit in hits]
    assert sum(name.startswith("p4") for name in names) == copies
    assert len(names) == 5


def test_each_refused_part_is_one_dead_letter_of_four_columns(
    first: tuple[Workshop, Summary, dict[str, Any]],
) -> None:
    made, summary, _ = first
    letters = pq.read_table(made.directory / "rejected" / f"{summary.run}.parquet")
    assert letters.column_names == ["document_id", "source", "stage", "reason"]
    bad, conflict = sorted(letters.to_pylist(), key=lambda letter: letter["document_id"])
    assert (bad["document_id"], bad["stage"]) == ("corpus/bad.png", "decode")
    assert str(made.corpus / "bad.png") in bad["reason"]
    assert (conflict["document_id"], conflict["stage"]) == ("corpus/x-conflict.png", "metadata")
    assert conflict["reason"] == "year is a str here ('new') but a number in the index"


def test_every_picture_has_a_preview(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    made, _, contents = first
    previews = {path.stem for path in (made.directory / "previews").glob("*/*.jpg")}
    assert set(contents["pictures"].values()) <= previews


def test_a_finished_run_leaves_no_work_files(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    assert list((first[0].directory / "runs").iterdir()) == []


def test_an_unchanged_corpus_encodes_nothing_and_needs_no_ray(
    first: tuple[Workshop, Summary, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, contents = first
    monkeypatch.delattr(job, "_ray")  # a run that wanted a cluster would fail
    again = made.ingest()
    assert (again.documents, again.unchanged, again.known_rejected) == (0, 8, 2)
    assert (again.encoded_images, again.encoded_chunks, again.rejected) == (0, 0, 0)
    assert made.contents() == contents


def test_a_locked_index_is_refused(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    made = first[0]
    with made.open() as index, index.write_lock(), pytest.raises(IndexLocked) as caught:
        made.ingest()
    assert caught.value.exit_status == 1


def test_too_many_refusals_fail_the_job_after_it_is_written(
    first: tuple[Workshop, Summary, dict[str, Any]], tmp_path: Path, clip_settings: list[str]
) -> None:
    """Of a picture that is none, and of one that the captioner takes not; it describes another."""
    told: list[tuple[int, int, str]] = []
    with Scripted.running() as captioner:
        few = [f"ingest.captions.url={captioner.url}", "ingest.captions.concurrency=1"]
        captions = [*few, "ingest.captions.model=m", "ingest.captions.retries=0"]
        made = workshop(tmp_path, clip_settings, "ingest.max_rejected_fraction=0.3", *captions)
        for path in made.corpus.iterdir():
            if path.name not in ("bad.png", "p3.png", "p4.png"):
                path.unlink()
        captioner.replies = [(200, {}, completion("A landscape.")), (400, {}, b"too large")]
        try:
            with pytest.raises(MmragError, match=r"2 of 5 parts were refused.*max_rejected_fraction 0\.3"):
                made.ingest(progress=lambda what, done, total, detail="": told.append((done, total, detail)))
            status = {name: row["status"] for name, row in made.ledger().items()}
            contents = made.contents()
        finally:
            made.stop()
    assert status == {"corpus/bad.png": "rejected", "corpus/p3.png": "complete", "corpus/p4.png": "partial"}
    assert contents["chunks"] == {"corpus/p3.png#txt-0": "A landscape."}
    assert sorted(contents["pictures"]) == ["corpus/p3.png#img-0", "corpus/p4.png#img-0"]
    assert (3, 3, "pictures asked about: 3") in told


# A hostile corpus.


def test_a_hostile_corpus_loses_no_good_row_and_no_bad_one_unsaid_in_bounded_memory(
    local_ray: None, tmp_path: Path, clip_settings: list[str]
) -> None:
    hostile = write_hostile_corpus(tmp_path / "hostile")
    settings = load_settings(None, clip_settings)
    made = Workshop(tmp_path / "hostile", tmp_path / "kb", settings, clip_settings)
    with watched_memory() as peak_bytes:
        summary = ingest(hostile.sources, made.directory, settings.index, settings.ingest)
    try:
        letters = pq.read_table(made.directory / "rejected" / f"{summary.run}.parquet").to_pylist()
        ledger = list(made.ledger().values())
        assert hostile.complaints(ledger, letters) == []
        with made.open() as index:
            status = index_status(index)
        assert status["stores"] == status["expected"]
        assert status["dead_letters"] == summary.rejected == len(letters)
        assert status["last_runs"][0]["run"] == summary.run
        assert max(peak_bytes) < 1.5e9
        would = dry_run(hostile.sources, made.directory, settings.index, settings.ingest, retry_rejected=True)
        assert (would.new, would.changed) == (0, sum(row["rejected"] > 0 for row in ledger))
    finally:
        made.stop()


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """The most memory, in bytes, that each process below this one held meanwhile: full when it is left."""
    peaks: dict[int, int] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            for process in without_servers(below(os.getpid())):
                with suppress(psutil.Error):
                    peaks[process.pid] = max(peaks.get(process.pid, 0), process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    peak_bytes: list[int] = []
    try:
        yield peak_bytes
    finally:
        ended.set()
        thread.join()
        peak_bytes += peaks.values()


# The next run, after changes.


@pytest.fixture(scope="module")
def second(
    first: tuple[Workshop, Summary, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    clip_settings: list[str],
) -> Iterator[tuple[Workshop, Summary, dict[str, Any]]]:
    """A copy of the index of `first` after a few changes to the corpus: what looks at that one as it was
    stands above."""
    root = tmp_path_factory.mktemp("second")
    made = first[0]
    made.stop()  # flushed and closed, so that its files may be copied
    shutil.copytree(made.directory, root / "kb")
    corpus = made.corpus
    (corpus / "p2.png").write_bytes(png(photograph(22, 64)))
    (corpus / "p0.txt").write_text("One short paragraph.")
    (corpus / "bad.png").write_bytes(png(photograph(33, 64)))
    (corpus / "p3.png").write_bytes(b"")
    changed = Workshop(corpus, root / "kb", made.settings, made.assignments)
    summary = changed.ingest()
    yield changed, summary, changed.contents()
    changed.stop()


def test_only_what_changed_is_done_again(second: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    _, summary, _ = second
    assert (summary.documents, summary.unchanged) == (4, 4)  # p0, p2, p3 and bad.png
    assert summary.encoded_images == 2  # p2 and bad.png: the picture of p0 is cached


def test_a_changed_picture_replaces_its_part(
    first: tuple[Workshop, Summary, dict[str, Any]], second: tuple[Workshop, Summary, dict[str, Any]]
) -> None:
    before, after = first[2]["pictures"], second[2]["pictures"]
    assert before["corpus/p2.png#img-0"] != after["corpus/p2.png#img-0"]
    assert before["corpus/p1.png#img-0"] == after["corpus/p1.png#img-0"]


def test_a_document_that_shrank_lost_its_stale_chunks(
    second: tuple[Workshop, Summary, dict[str, Any]],
) -> None:
    contents = second[2]
    assert sorted(contents["chunks"]) == ["corpus/p0.png#txt-0", "corpus/p1.png#txt-0"]
    assert contents["chunks"]["corpus/p0.png#txt-0"] == "One short paragraph."
    assert contents["status"]["stores"] == contents["status"]["expected"]


def test_a_picture_that_was_mended_is_found_and_one_that_broke_is_not(
    second: tuple[Workshop, Summary, dict[str, Any]],
) -> None:
    made, _, contents = second
    assert "corpus/bad.png#img-0" in contents["pictures"]
    assert "corpus/p3.png#img-0" not in contents["pictures"]
    ledger = made.ledger()
    assert (ledger["corpus/bad.png"]["status"], ledger["corpus/p3.png"]["status"]) == ("complete", "rejected")


def test_what_was_refused_is_tried_again_only_when_asked(
    second: tuple[Workshop, Summary, dict[str, Any]],
) -> None:
    made = second[0]
    assert made.dry_run().unchanged == 8
    would = made.dry_run(retry_rejected=True)
    assert (would.new, would.changed, would.unchanged) == (0, 2, 6)  # p3 and the conflict
    again = made.ingest(retry_rejected=True)
    assert (again.documents, again.rejected, again.encoded_images) == (2, 2, 0)


def test_a_long_listing_is_compared_by_tasks(
    second: tuple[Workshop, Summary, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if more than three documents were many. The ledger keeps its four buckets for what follows."""
    made, _, contents = second
    for module in (ledgers, listed):
        monkeypatch.setattr(module, "FEW_DOCUMENTS", 3)
        monkeypatch.setattr(module, "BUCKETS", (1, 4))
    before = made.ledger()
    again = made.ingest()
    assert (again.documents, again.unchanged, again.known_rejected) == (0, 8, 2)
    assert (Ledger.load(made.directory).buckets, made.ledger()) == (4, before)
    assert made.contents() == contents
    found = job._each_bucket(lambda: None, lambda bucket: (bucket, os.getpid()), range(4))  # type: ignore[arg-type,return-value]
    buckets, processes = zip(*found, strict=True)
    assert sorted(buckets) == [0, 1, 2, 3]
    assert os.getpid() not in processes


def test_a_removed_document_stays_until_pruned(second: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    made, _, before = second
    for path in made.corpus.glob("p1.*"):
        path.unlink()
    would = made.dry_run(prune=True)
    assert (would.new, would.changed, would.unchanged, would.gone, would.pruned) == (0, 0, 7, 1, 1)
    assert made.contents() == before
    kept = made.ingest()
    assert (kept.gone, kept.pruned) == (1, 0)
    assert made.contents() == before
    pruned = made.ingest(prune=True)
    assert (pruned.gone, pruned.pruned) == (1, 1)
    after = made.contents()
    assert before["pictures"].keys() - after["pictures"].keys() == {"corpus/p1.png#img-0"}
    assert before["chunks"].keys() - after["chunks"].keys() == {"corpus/p1.png#txt-0"}
    assert after["status"]["stores"] == after["status"]["expected"]
    assert made.ingest(prune=True).gone == 0


def test_the_documents_of_a_manifest_that_is_gone_are_pruned(
    second: tuple[Workshop, Summary, dict[str, Any]],
) -> None:
    corpus, _, _ = second
    before, stood = corpus.contents(), refused(corpus)
    made = replace(corpus, corpus=corpus.directory.parent / "rows.jsonl")
    made.corpus.write_text('{"id": "row", "text": "The hole spacing is 48 mm."}\n{"id": "bad"}\n')
    made.ingest()
    assert "row#txt-0" in made.contents()["chunks"]
    assert refused(made) == stood + 1
    made.corpus.unlink()
    with pytest.raises(SourceError, match="does not exist; a SOURCE"):
        made.ingest()
    pruned = made.ingest(prune=True)
    assert (pruned.gone, pruned.pruned, pruned.documents, refused(made)) == (1, 1, 0, stood)
    assert made.contents() == before
    with pytest.raises(SourceError, match="nor does the index know documents of it"):
        made.ingest(prune=True)


def refused(made: Workshop) -> int:
    with made.open() as index:
        return int(index_status(index)["dead_letters"])


def test_a_dry_run_makes_no_index(tmp_path: Path, clip_settings: list[str]) -> None:
    made = workshop(tmp_path, clip_settings)
    would = made.dry_run()
    assert (would.new, would.gone, would.refused) == (8, 0, ())
    assert not made.directory.exists()


# Runs that are cut short.


def without_servers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Without the vector servers, which outlive their starter until they are idle."""
    return [process for process in processes if "pipelines.core.stores.embedded" not in command(process)]


def started(made: Workshop, environment: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
    # Small batches, so that the writes come one after another.
    sizes = ["ingest.encoder_batch=1", "ingest.load_batch=1", "ingest.rows_per_write=1"]
    options = [word for value in (*made.assignments, *sizes) for word in ("--set", value)]
    main = [sys.executable, "-c", "from pipelines.cli import main; main()"]
    words = [*main, "ingest", str(made.corpus), "--index", str(made.directory), *options]
    return subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
    )


def wait_for_acknowledgement(made: Workshop, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list(made.directory.glob("runs/*/acks/*.parquet")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.02)


def assert_gone(processes: list[psutil.Process], within_s: float = 60) -> None:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    assert [command(process) for process in alive] == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_cut_in_the_middle_is_completed_by_the_next(
    first: tuple[Workshop, Summary, dict[str, Any]],
    tmp_path: Path,
    clip_settings: list[str],
    sent: signal.Signals,
) -> None:
    made = workshop(tmp_path, clip_settings)
    process = started(made)
    try:
        wait_for_acknowledgement(made, process)
        its_own = without_servers(below(process.pid))
        servers = vector_servers(made.directory)
        process.send_signal(sent)
        if sent == signal.SIGKILL:
            assert [server.kill() for server in servers]
        _, said = process.communicate(timeout=200)
        assert process.returncode == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
        if (
            sent == signal.SIGINT
        ):  # after a kill Ray's own agents take a minute to notice; nobody waits for that
            assert_gone(its_own)
            assert "interrupted" in said
            assert "Traceback" not in said
            # Nobody holds the vector servers, so they end when their idle time is over.
            for server in (made.directory / "vectors").iterdir():
                assert not embedded._has_clients(server)
        assert not (made.directory / "ledger").exists()
        summary = made.ingest()
        assert summary.index["status"] == {"complete": 6, "rejected": 2}
        assert_same_stores(made, first)
        assert list((made.directory / "runs").iterdir()) == []
    finally:
        process.kill()
        made.stop()


def assert_same_stores(made: Workshop, first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    assert made.contents() == first[2]
    for name, found in differences(first[0].stored(), made.stored()).items():
        assert (name, found.lost, found.extra) == (name, 0, 0)
        assert found.apart <= 1e-5  # batches of other sizes are summed in another order


def test_a_job_on_two_nodes_goes_on_when_the_one_with_the_encoder_is_lost_and_another_comes(
    first: tuple[Workshop, Summary, dict[str, Any]], tmp_path: Path, clip_settings: list[str]
) -> None:
    vectors = embedded.attach(tmp_path / "vectors")
    try:
        with elastic_server(tmp_path) as words, TwoNodes() as nodes:
            stores = f"stores.milvus.uri={vectors}", f"stores.elastic.url={words}"
            made = workshop(tmp_path, clip_settings, *SETTINGS, "ingest.writers=1", *stores)
            process = started(made, nodes.environment)
            try:
                wait_for_acknowledgement(made, process)
                nodes.kill()
                nodes.add()
                _, said = process.communicate(timeout=300)
            finally:
                process.kill()
            assert process.returncode == 3, said  # with the two dead letters of this corpus
            assert_same_stores(made, first)
    finally:
        embedded.stop(tmp_path / "vectors")


def test_an_error_of_ours_in_a_task_is_told_in_its_own_words(local_ray: None) -> None:
    def refuse(batch: dict[str, Any]) -> dict[str, Any]:
        raise UsageError("reading PDFs needs: pip install 'mmrag[pdf]'")

    wanted = r"^reading PDFs needs: pip install 'mmrag\[pdf\]'$"
    with pytest.raises(UsageError, match=wanted), job._ray(IngestConfig()):
        ray.data.range(3).map_batches(refuse).materialize()


def test_a_part_of_the_job_that_ray_lost_is_told_with_what_to_do(local_ray: None) -> None:
    def die(batch: dict[str, Any]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return batch

    wanted = r"^Ray lost a process or a node of this job \(\w+\); run the same command again: it goes on"
    with pytest.raises(MmragError, match=wanted), job._ray(IngestConfig()):
        ray.data.range(1).map_batches(die, max_retries=0).materialize()


def test_a_part_that_cannot_start_for_its_own_error_is_no_lost_one() -> None:
    failed = ActorDiedError(RayTaskError("Encode", "a traceback", ValueError("no such scale")))
    assert job._own_error(failed) is failed
    assert isinstance(job._own_error(ActorDiedError()), MmragError)


def test_ids_of_parts_come_from_the_source_alone(first: tuple[Workshop, Summary, dict[str, Any]]) -> None:
    made = first[0]
    with made.open() as index:
        key = store_key("", "corpus/p1.png#img-0")
        assert index.visual().fetch([key])[key].source == str(made.corpus / "p1.png")
