"""What `mmrag status` tells beside counts: last runs, what is refused, whether stored vectors are found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fakes import image_part, memory_index

from pipelines.core.errors import StoreUnavailable
from pipelines.core.index import Index
from pipelines.core.types import Found
from pipelines.core.writer import Writer
from pipelines.ingest import history, refused
from pipelines.ingest import status as module
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import make_plan
from pipelines.ingest.run import Run
from pipelines.ingest.sources import Rejected, SourceConfig, list_items
from pipelines.ingest.status import FIRST, PROBES, index_status, recall
from pipelines.ingest.summary import Summary


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Forty pictures, none like another."""
    index = memory_index(tmp_path / "kb")
    vectors = np.random.default_rng(0).normal(size=(40, index.visual().dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index.visual().upsert([image_part(f"p{n}") for n in range(40)], vectors)
    return index


COUNTED = {"visual": 40, "text": 0, "lexical": 0}


def summary(run: str) -> Summary:
    return Summary(run, 1, 2, 0, 0, 3, 4, 5, 0, 0, 0, 6.0, 0.0, {}, {}, None, None)


def test_an_exact_search_finds_all_of_the_nearest(index: Index) -> None:
    nothing = {"probed": 0, "recall": None}
    assert recall(index, COUNTED) == {"visual": {"probed": PROBES, "recall": 1.0}, "text": nothing}


def test_a_store_that_leaves_out_is_found_out(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    search = index.visual().search

    def lossy(vector: np.ndarray, k: int) -> list[Found]:
        return [hit for hit in search(vector, k + 1) if hit.part.document_id != "p0"][:k]

    monkeypatch.setattr(index.visual(), "search", lossy)
    vectors = np.concatenate([block for _, block in index.visual().scan()])
    nearest = np.argsort(-(vectors[:PROBES] @ vectors.T), axis=1)[:, :FIRST]
    keys = [part.document_id for block, _ in index.visual().scan() for part in block]
    missed = int((nearest == keys.index("p0")).sum())
    assert missed > 0
    found = recall(index, COUNTED)["visual"]
    assert found == {"probed": PROBES, "recall": pytest.approx(1 - missed / (PROBES * FIRST))}


def test_more_equal_pictures_than_are_looked_at_are_no_loss(tmp_path: Path) -> None:
    index = memory_index(tmp_path / "kb")
    same = np.tile(np.eye(1, index.visual().dim, dtype=np.float32), (20, 1))
    index.visual().upsert([image_part(f"p{n}") for n in range(20)], same)
    assert recall(index, COUNTED)["visual"] == {"probed": 20, "recall": 1.0}


def test_a_store_that_is_down_is_told(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> None:
        raise StoreUnavailable("nobody there")

    monkeypatch.setattr(index, "text", down)
    assert recall(index, COUNTED)["text"] == "nobody there"


def test_a_store_that_could_not_be_counted_is_not_waited_for_again(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def down() -> None:
        asked.append("text")
        raise StoreUnavailable("nobody there")

    monkeypatch.setattr(index, "text", down)
    counted = index_status(index)["stores"]
    assert counted == {"visual": 40, "text": "nobody there", "lexical": 0}
    measured = recall(index, counted)
    assert measured["visual"] == {"probed": PROBES, "recall": 1.0}
    assert measured["text"] == "not measured, for the store could not be counted"
    assert asked == ["text"]
    assert recall(index, dict.fromkeys(counted, "down")) == dict.fromkeys(
        ("visual", "text"), "not measured, for the store could not be counted"
    )


def all_at_once(monkeypatch: pytest.MonkeyPatch, stores: list[Any], name: str) -> None:
    """Each answers once all have been asked."""
    asked = threading.Barrier(len(stores), timeout=60)

    def waiting(answer: Callable[[], Any]) -> Any:
        asked.wait()
        return answer()

    for store in stores:
        monkeypatch.setattr(store, name, partial(waiting, getattr(store, name)))


def test_the_stores_are_asked_at_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else those that hang would be waited for one after another."""
    all_at_once(monkeypatch, [index.visual(), index.text(), index.lexical()], "count")
    all_at_once(monkeypatch, [index.visual(), index.text()], "scan")
    assert index_status(index)["stores"] == COUNTED
    assert recall(index, COUNTED)["visual"] == {"probed": PROBES, "recall": 1.0}


def test_a_run_that_goes_on_has_a_writer_and_one_that_was_cut_short_has_none(index: Index) -> None:
    with index.write_lock():
        Run(index.home, "cut", "f").begin()
        told = index_status(index)
        me = Writer.current()
        assert told["unfinished_runs"] == ["cut"]
        assert told["writer"] | {"since": ""} == {
            "host": me.host,
            "pid": me.pid,
            "since": "",
            "running": True,
        }
    told = index_status(index)
    assert (told["unfinished_runs"], told["writer"]) == (["cut"], None)


def test_a_run_that_ends_while_it_is_looked_at_is_not_unfinished(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no writer any more, and nothing to be taken up."""
    run = Run(index.home, "going", "f")
    run.begin()
    monkeypatch.setattr(module, "unfinished_runs", lambda home: [run])
    run.end()
    told = index_status(index)
    assert (told["unfinished_runs"], told["writer"]) == ([], None)


def test_a_writer_that_ends_while_it_is_looked_at_is_not_said_to_be_gone(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = replace(Writer.current(), started=0.0)
    assert ended.running is False
    notes = iter([ended, None])
    monkeypatch.setattr(module, "writer_of", lambda directory: next(notes))
    assert index_status(index)["writer"] is None


def test_the_last_runs_are_kept_the_newest_first(index: Index) -> None:
    assert index_status(index)["last_runs"] == []
    for number in range(history.KEPT + 1):
        history.remember(index.directory, summary(str(number)))
    runs = index_status(index)["last_runs"]
    assert [run["run"] for run in runs] == [str(number) for number in range(history.KEPT, 0, -1)]
    assert (runs[0]["documents"], runs[0]["rejected"], runs[0]["elapsed_s"]) == (1, 5, 6.0)


@pytest.mark.parametrize(
    "left", [b"", b"\0" * 64, b'[{"run": "1', b"null", b"7", b"[7]", b'[{"run": "1"}]', b"\xff"]
)
def test_a_damaged_side_file_is_empty_and_written_anew(index: Index, left: bytes) -> None:
    """As a power cut leaves it."""
    for file in (index.directory / history.FILE, index.home / refused.FILE):
        file.write_bytes(left)
    told = index_status(index)
    assert (told["last_runs"], told["dead_letters"]) == ([], 0)
    history.remember(index.directory, summary("1"))
    refused.remember(index.home, ["/a"], [bad("1", "/a")])
    told = index_status(index)
    assert ([run["run"] for run in told["last_runs"]], told["dead_letters"]) == (["1"], 1)


def test_the_bytes_of_each_part_are_told(index: Index) -> None:
    before = index_status(index)["bytes"]
    (index.previews / "ab").mkdir(parents=True)
    (index.previews / "ab" / "abc.jpg").write_bytes(b"x" * 1000)
    assert index_status(index)["bytes"] == before | {"previews": 1000}
    assert before["other"] >= (index.directory / "index.json").stat().st_size


# What is still refused.


def bad(source: str, scope: str) -> Rejected:
    return Rejected(source, f"{scope}/{source}", "list", "links out", scope)


def test_refusals_of_listing_stand_until_their_source_is_listed_again(index: Index) -> None:
    assert index_status(index)["dead_letters"] == 0
    refused.remember(index.home, ["/a", "/b"], [bad("1", "/a"), bad("2", "/a"), bad("3", "/b")])
    assert index_status(index)["dead_letters"] == 3
    refused.remember(index.home, ["/a"], [bad("2", "/a")])
    assert index_status(index)["dead_letters"] == 2
    refused.remember(index.home, ["/b"], [])
    assert index_status(index)["dead_letters"] == 1


def test_refused_parts_count_as_long_as_their_document_has_them(index: Index) -> None:
    row = {"document_key": "k", "document_id": "d", "status": "partial", "rejected": 2}
    ledger = Ledger(index.home).changed(pa.Table.from_pylist([row], schema=SCHEMA))
    assert index_status(index)["dead_letters"] == 2
    whole = row | {"status": "complete", "rejected": 0}
    ledger.changed(pa.Table.from_pylist([whole], schema=SCHEMA))
    assert index_status(index)["dead_letters"] == 0


def test_every_refusal_of_listing_names_its_source(tmp_path: Path) -> None:
    manifest, folder, broken = tmp_path / "m.jsonl", tmp_path / "pictures", tmp_path / "b.tar"
    manifest.write_text('{"id": "1"}\n{"id": "2", "text": "A"}\n{"id": "2", "text": "B"}\n')
    folder.mkdir()
    (folder / "away.png").symlink_to("/etc/hostname")
    broken.write_bytes(b"no archive")
    listing = list_items([str(source) for source in (manifest, folder, broken)], SourceConfig())
    plan = make_plan(listing, Ledger(tmp_path / "kb"), "f")
    told = {(bad.scope, bad.stage) for bad in plan.refused}
    assert told == {(str(source), "list") for source in (manifest, folder, broken)}
    assert len(plan.refused) == 4
