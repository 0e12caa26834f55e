"""The real ingest job on a local Ray, over a small folder: one run seen from all sides, and its sequels."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pyarrow.parquet as pq
import pytest
import ray
from chat_server import Scripted, completion
from fakes import photograph, png, tiny_clip
from hostile_inputs import write_hostile_corpus
from ingest_workshop import TWO_SCALES, First, Workshop, assert_same_stores, without_servers, workshop
from ray_metrics_port import exported
from shell import mmrag

from benchmarks.processes import below
from pipelines.core.encoder import EncoderConfig
from pipelines.core.errors import IndexLocked, MmragError, SourceError, StoreUnavailable
from pipelines.core.index import IndexConfig
from pipelines.core.last_ingest import FILE, last_ingest
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.stores import embedded
from pipelines.core.types import store_key
from pipelines.ingest import job, listed
from pipelines.ingest import ledger as ledgers
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.dry_run import dry_run
from pipelines.ingest.encoders import Encoders
from pipelines.ingest.job import ingest
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.status import index_status
from pipelines.settings import load_settings
from tests.contracts.servers import elastic_server, milvus_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


# One run.


def test_the_summary_counts_what_the_folder_holds(first: First) -> None:
    _, summary, contents = first
    assert (summary.documents, summary.unchanged) == (8, 0)
    assert summary.images == 6
    assert summary.chunks == len(contents["chunks"]) >= 4
    assert summary.rejected == 2
    assert summary.index["status"] == {"complete": 6, "rejected": 2}
    assert (summary.same_pictures, summary.near_duplicates) == (1, 0)  # p4-again, of p4
    assert summary.differing_stores == []
    assert summary.elapsed_s > 0
    assert {"parse", "load", "encode", "write"} <= summary.stage_s.keys()


def test_prometheus_is_told_what_the_summary_counts(first: First) -> None:
    """The first run alone: no other has used this Ray yet."""
    summary = first[1]
    counts = {
        ("ray_mmrag_ingest_documents_total",): summary.documents,
        ("ray_mmrag_ingest_parts_total", "image"): summary.images,
        ("ray_mmrag_ingest_parts_total", "chunk"): summary.chunks,
        ("ray_mmrag_ingest_rejected_total", "decode"): 1,
        ("ray_mmrag_ingest_rejected_total", "metadata"): 1,
        ("ray_mmrag_ingest_documents_waiting",): 0,  # though this process lives on
        ("ray_mmrag_ingest_rows_waiting",): 0,
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


def test_a_run_that_fails_leaves_nothing_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: dict[str, float] = {}
    monkeypatch.setattr(job, "record", lambda metric, value: recorded.update({metric.name: value}))

    def fail() -> None:
        with job._every_second(lambda: None):
            for waiting in (job.DOCUMENTS_WAITING, job.ROWS_WAITING):
                job.record(waiting, 7)
            raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        fail()
    assert recorded == {"mmrag_ingest_documents_waiting": 0, "mmrag_ingest_rows_waiting": 0}


def test_a_gpu_is_for_models_that_use_it_and_told_where_it_is_not_free(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server on the same cluster holds it: the ingest stands still, and says why."""
    monkeypatch.setattr(job, "node_cpus", lambda: [8])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    models, sizes = IndexConfig(), IngestConfig()
    assert job._encoders(models, sizes, 9, 1) == Encoders(2, 1, 1, 1)
    assert capsys.readouterr().err == ""  # one of two is enough to begin
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 8.0})
    assert job._encoders(models, sizes, 9, 1).gpus == 1
    assert capsys.readouterr().err == "Ray's cluster has 0 of 1 GPUs free; waiting for the rest\n"
    on_cpus = IndexConfig(encoder=EncoderConfig(device="cpu"))
    assert job._encoders(on_cpus, sizes, 9, 1) == Encoders(4, 1, 1, 0)
    assert capsys.readouterr().err == ""


def test_the_stores_hold_what_the_ledger_says(first: First) -> None:
    contents = first[2]
    names = ["p0", "p1", "p2", "p3", "p4", "p4-again"]
    assert sorted(contents["pictures"]) == sorted(f"corpus/{name}.png#img-0" for name in names)
    assert contents["lexical"] == sorted(contents["chunks"])
    assert contents["status"]["stores"] == contents["status"]["expected"]
    assert contents["chunks"]["corpus/p1.png#txt-0"] == "红色的散热器"


def test_one_picture_in_two_documents_is_encoded_once(
    first: First,
) -> None:
    _, summary, contents = first
    assert summary.encoded_images == 5
    pictures = contents["pictures"]
    assert pictures["corpus/p4.png#img-0"] == pictures["corpus/p4-again.png#img-0"]


@pytest.mark.parametrize(("how", "copies"), [("show", 2), ("collapse", 1)])
def test_a_search_shows_both_or_one_of_pictures_that_look_the_same(
    first: First, how: Literal["show", "collapse"], copies: int
) -> None:
    made = first[0]
    query = Query(image=png(photograph(4, 64)), k=5)
    with made.open() as index:
        hits = index.retriever(SearchConfig(near_duplicates=how)).search(query).hits
    names = [Path(hit.document_id).stem for hit in hits]
    assert sum(name.startswith("p4") for name in names) == copies
    assert len(names) == 5


def test_each_refused_part_is_one_dead_letter_of_four_columns(
    first: First,
) -> None:
    made, summary, _ = first
    letters = pq.read_table(made.directory / "rejected" / f"{summary.run}.parquet")
    assert letters.column_names == ["document_id", "source", "stage", "reason"]
    bad, conflict = sorted(letters.to_pylist(), key=lambda letter: letter["document_id"])
    assert (bad["document_id"], bad["stage"]) == ("corpus/bad.png", "decode")
    assert str(made.corpus / "bad.png") in bad["reason"]
    assert (conflict["document_id"], conflict["stage"]) == ("corpus/x-conflict.png", "metadata")
    assert conflict["reason"] == "year is a str here ('new') but a number in the index"


def test_every_picture_has_a_preview(first: First) -> None:
    made, _, contents = first
    previews = {path.stem for path in (made.directory / "previews").glob("*/*.jpg")}
    assert set(contents["pictures"].values()) <= previews


def test_a_finished_run_leaves_no_work_files(first: First) -> None:
    assert list((first[0].directory / "runs").iterdir()) == []


def test_an_unchanged_corpus_encodes_nothing_and_needs_no_ray(
    first: First, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, contents = first
    monkeypatch.delattr(job, "cluster")  # a run that wanted a cluster would fail
    (made.directory / FILE).unlink()
    again = made.ingest()
    assert last_ingest(made.directory) is not None
    assert (again.documents, again.unchanged, again.known_rejected) == (0, 8, 2)
    assert (again.encoded_images, again.encoded_chunks, again.rejected) == (0, 0, 0)
    assert made.contents() == contents


def test_an_ingest_of_nothing_makes_an_index_that_finds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(job, "cluster")
    made = workshop(tmp_path)
    shutil.rmtree(made.corpus)
    made.corpus.mkdir()
    try:
        assert made.ingest().documents == 0
        with made.open() as index:
            found = index.retriever(SearchConfig()).search(Query("red", image=png(photograph(0, 64))))
    finally:
        made.stop()
    assert (found.hits, found.degraded) == ((), ())


def test_a_locked_index_is_refused(first: First) -> None:
    made = first[0]
    with made.open() as index, index.write_lock(), pytest.raises(IndexLocked) as caught:
        made.ingest()
    assert caught.value.exit_status == 1


def test_too_many_refusals_fail_the_job_after_it_is_written(first: First, tmp_path: Path) -> None:
    """Of a picture that is none, and of one that the captioner takes not; it describes another."""
    told: list[tuple[int, int, str]] = []
    with Scripted.running() as captioner:
        few = [f"ingest.captions.url={captioner.url}", "ingest.captions.concurrency=1"]
        captions = [*few, "ingest.captions.model=m", "ingest.captions.retries=0"]
        made = workshop(tmp_path, "ingest.max_rejected_fraction=0.3", *captions)
        for path in made.corpus.iterdir():
            if path.name not in ("bad.png", "p3.png", "p4.png"):
                path.unlink()
        captioner.replies = [(200, {}, completion("A landscape.")), (400, {}, b"too large")]
        try:
            with pytest.raises(MmragError, match=r"2 of 5 parts were refused.*max_rejected_fraction 0\.3"):
                made.ingest(progress=lambda what, done, total, detail="": told.append((done, total, detail)))
            status = {name: row["status"] for name, row in made.ledger().items()}
            contents = made.contents()
            assert last_ingest(made.directory) is None
        finally:
            made.stop()
    assert status == {"corpus/bad.png": "rejected", "corpus/p3.png": "complete", "corpus/p4.png": "partial"}
    assert contents["chunks"] == {"corpus/p3.png#txt-0": "A landscape."}
    assert sorted(contents["pictures"]) == ["corpus/p3.png#img-0", "corpus/p4.png#img-0"]
    assert (3, 3, "pictures asked about: 3") in told


# Servers as stores.


def test_parallel_writers_fill_servers_like_the_embedded_stores(
    first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_ROWS_PER_BLOCK", 2)  # a block is one writer's
    small = "ingest.load_batch=2", "ingest.encoder_batch=2", "ingest.rows_per_write=1"
    with milvus_server(tmp_path / "milvus") as vectors, elastic_server(tmp_path) as words:
        stores = f"stores.milvus.uri={vectors}", f"stores.elastic.url={words}"
        made = workshop(tmp_path, *stores, *small, "ingest.writers=3")
        summary = made.ingest()
        assert summary.index["status"] == first[1].index["status"]
        assert_same_stores(made, first)
        for path in made.corpus.glob("p1.*"):
            path.unlink()
        assert made.ingest(prune=True).pruned == 1
        assert made.contents()["pictures"].keys() == first[2]["pictures"].keys() - {"corpus/p1.png#img-0"}


# A hostile corpus.


def test_a_hostile_corpus_loses_no_good_row_and_no_bad_one_unsaid_in_bounded_memory(
    local_ray: None, tmp_path: Path
) -> None:
    hostile = write_hostile_corpus(tmp_path / "hostile")
    settings = load_settings(None, TWO_SCALES)
    made = Workshop(tmp_path / "hostile", tmp_path / "kb", settings, TWO_SCALES)
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
def second(first: First, tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
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


def test_only_what_changed_is_done_again(second: First) -> None:
    _, summary, _ = second
    assert (summary.documents, summary.unchanged) == (4, 4)  # p0, p2, p3 and bad.png
    assert summary.encoded_images == 2  # p2 and bad.png: the picture of p0 is cached


def test_a_changed_picture_replaces_its_part(first: First, second: First) -> None:
    before, after = first[2]["pictures"], second[2]["pictures"]
    assert before["corpus/p2.png#img-0"] != after["corpus/p2.png#img-0"]
    assert before["corpus/p1.png#img-0"] == after["corpus/p1.png#img-0"]


def test_a_document_that_shrank_lost_its_stale_chunks(
    second: First,
) -> None:
    contents = second[2]
    assert sorted(contents["chunks"]) == ["corpus/p0.png#txt-0", "corpus/p1.png#txt-0"]
    assert contents["chunks"]["corpus/p0.png#txt-0"] == "One short paragraph."
    assert contents["status"]["stores"] == contents["status"]["expected"]


def test_a_picture_that_was_mended_is_found_and_one_that_broke_is_not(
    second: First,
) -> None:
    made, _, contents = second
    assert "corpus/bad.png#img-0" in contents["pictures"]
    assert "corpus/p3.png#img-0" not in contents["pictures"]
    ledger = made.ledger()
    assert (ledger["corpus/bad.png"]["status"], ledger["corpus/p3.png"]["status"]) == ("complete", "rejected")


def test_what_was_refused_is_tried_again_only_when_asked(
    second: First,
) -> None:
    made = second[0]
    assert made.dry_run().unchanged == 8
    would = made.dry_run(retry_rejected=True)
    assert (would.new, would.changed, would.unchanged) == (0, 2, 6)  # p3 and the conflict
    chosen = [word for value in made.assignments for word in ("--set", value)]
    again = mmrag("ingest", made.corpus, "--index", made.directory, "--retry-rejected", "--json", *chosen)
    assert again.status == 3
    did = json.loads(again.out)
    assert (did["documents"], did["rejected"], did["encoded_images"]) == (2, 2, 0)


def test_a_long_listing_is_compared_by_tasks(second: First, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_removed_document_stays_until_pruned(second: First) -> None:
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
    second: First,
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


def test_public_benchmarks_are_ingested_and_measured(local_ray: None, tmp_path: Path) -> None:
    """A folder of BEIR's and one of M-BEIR's as they are published, in one index, encoded by a CLIP."""
    clip = ["encoder.kind=clip", f"encoder.model={tiny_clip(tmp_path / 'clip')}", *TWO_SCALES]
    beir, mbeir, settings = tmp_path / "beir", tmp_path / "mbeir", load_settings(None, clip)
    for folder in (beir / "qrels", mbeir / "mbeir_images"):
        folder.mkdir(parents=True)
    documents = [
        {"_id": "MED-10", "title": "Statins", "text": "They lower cholesterol.", "metadata": {"tags": ["x"]}},
        {"_id": "MED-14", "title": "Coffee", "text": "It keeps one awake.", "metadata": {}},
    ]
    write_lines(beir / "corpus.jsonl", *documents)
    write_lines(beir / "queries.jsonl", {"_id": "PLAIN-2", "text": "statins and cholesterol", "metadata": {}})
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nPLAIN-2\tMED-10\t2\n")
    for n in (1, 2):
        (mbeir / "mbeir_images" / f"{n}.png").write_bytes(png(photograph(n, 64)))
    candidates = [
        {"did": f"9:{n}", "txt": None, "img_path": f"mbeir_images/{n}.png", "modality": "image"}
        for n in (1, 2)
    ]
    write_lines(mbeir / "pool.jsonl", *candidates)
    query = {"qid": "9:7", "query_txt": None, "query_img_path": "mbeir_images/2.png"}
    write_lines(mbeir / "test.jsonl", query | {"pos_cand_list": ["9:2"], "neg_cand_list": []})

    sources = [str(beir / "corpus.jsonl"), str(mbeir / "pool.jsonl")]
    summary = ingest(sources, tmp_path / "kb", settings.index, settings.ingest)
    assert (summary.documents, summary.rejected) == (4, 0)
    try:
        found = [measured(data, tmp_path / "kb", clip) for data in (beir, mbeir / "test.jsonl")]
    finally:
        for server in (tmp_path / "kb" / "vectors").iterdir():
            embedded.stop(server)
    text, image = (one["by_branch"] for one in found)
    assert text["lexical"]["metrics"]["success@1"]["mean"] == 1
    assert image["image_to_image"]["metrics"]["success@1"]["mean"] == 1


def write_lines(file: Path, *rows: dict[str, object]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def measured(data: Path, directory: Path, assignments: list[str]) -> dict[str, Any]:
    options = [word for value in assignments for word in ("--set", value)]
    said = mmrag("evaluate", "retrieval", "--data", data, "--index", directory, "--json", *options)
    assert said.status == 0, said.err
    return json.loads(said.out)


def refused(made: Workshop) -> int:
    with made.open() as index:
        return int(index_status(index)["dead_letters"])


def test_a_dry_run_makes_no_index(tmp_path: Path) -> None:
    made = workshop(tmp_path)
    would = made.dry_run()
    assert (would.new, would.gone, would.refused) == (8, 0, ())
    assert not made.directory.exists()


def test_ids_of_parts_come_from_the_source_alone(first: First) -> None:
    made = first[0]
    with made.open() as index:
        key = store_key("", "corpus/p1.png#img-0")
        assert index.visual().fetch([key])[key].source == str(made.corpus / "p1.png")
