"""Writing, acknowledging and finishing a run, and what a run that was cut short leaves."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import DownStore, Recorded, chunk_part, image_part, memory_index

from pipelines.core.errors import MmragError, PartsRefused, StoreError, StoreUnavailable
from pipelines.core.index import Index
from pipelines.core.manifest import NEXT
from pipelines.core.previews import write_preview
from pipelines.core.readings import Reading, save_reading
from pipelines.core.stores.memory import MemoryLexicalStore
from pipelines.core.types import Part, store_key
from pipelines.ingest import patience, sink
from pipelines.ingest.captions import caption_path
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.metrics import count_refused
from pipelines.ingest.plan import Plan, make_plan
from pipelines.ingest.rows import DOCUMENT, part_row, refuse, table
from pipelines.ingest.run import Run, unfinished_runs
from pipelines.ingest.sink import Finished, finish, recover, write_rows
from pipelines.ingest.sources import Item, Listing, Rejected


@pytest.fixture(params=[sink._ACKS_AT_ONCE, 2], ids=["at once", "in shares"])
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Index:
    """An empty one. A run's acknowledgements are read all at once, or some documents at a time."""
    monkeypatch.setattr(sink, "_ACKS_AT_ONCE", request.param)
    return memory_index(tmp_path / "kb")


def begun(index: Index, *documents: str, name: str = "run-1") -> Run:
    """A run that has planned these documents."""
    run = Run(index.directory, name, "f1")
    run.begin()
    items = (Item("row", document, f"/{document}", "/", "/") for document in documents)
    make_plan(Listing(items, {}), Ledger.load(index.directory), "f1", run.items)
    return run


def part_rows(part: Part, **fields: Any) -> dict[str, Any]:
    size = 6 if part.kind == "image" else 64
    vector = np.zeros(size, np.float32)
    vector[0] = 1
    return part_row(part, vector=vector.tobytes(), encoded=True) | fields


def document_row(document: str, num_parts: int, digest: str = "d1") -> dict[str, Any]:
    row = part_row(Part(document, "chunk", document, f"/{document}"))
    extra = {"kind": DOCUMENT, "key": row["document_key"], "inputs": [], "digest": digest}
    return row | extra | {"num_parts": num_parts}


def rows_of(document: str, chunks: int = 1, digest: str = "d1") -> list[dict[str, Any]]:
    """A document with one picture and some chunks."""
    parts = [image_part(document), *(chunk_part(document, f"text {n}", n) for n in range(chunks))]
    return [*(part_rows(part) for part in parts), document_row(document, len(parts), digest)]


def ids(store: Any) -> list[str]:
    return sorted(part.id for part in store._parts.values())


def ledger(index: Index) -> Ledger:
    return Ledger.load(index.directory)


def entry(index: Index, document: str) -> dict[str, Any]:
    found = ledger(index).get(store_key("", document))
    assert found is not None
    return found


def ingest(
    index: Index, *rows: Sequence[dict[str, Any]], name: str = "run-1", refused: Sequence[Rejected] = ()
) -> Finished:
    """A whole run: each of `rows` is one write."""
    documents = {row["document_id"]: None for batch in rows for row in batch}
    run = begun(index, *documents, name=name)
    for batch in rows:
        write_rows(table(batch), index, run)
    return finish(index, run, ledger(index), refused)[1]


def planned(index: Index, *items: Item) -> Plan:
    return make_plan(Listing(iter(items), {}), ledger(index), "f1")


def letters(index: Index, name: str = "run-1") -> list[dict[str, str]]:
    return pq.read_table(index.directory / "rejected" / f"{name}.parquet").to_pylist()


# Writing.


def test_pictures_go_to_one_collection_and_chunks_to_both_text_stores(index: Index) -> None:
    ingest(index, rows_of("a", chunks=2))
    assert ids(index.visual()) == ["a#img-0"]
    assert ids(index.text()) == ids(index.lexical()) == ["a#txt-0", "a#txt-1"]


def test_the_parts_keep_everything_that_they_said(index: Index) -> None:
    part = chunk_part("a", "红 red", images=[0], metadata={"year": 2020, "ok": False}, tenant="acme")
    write_rows(table([part_rows(part)]), index, begun(index))
    assert index.lexical().fetch([part.key]) == {part.key: part}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *itertools.product(["visual", "text", "lexical"], ["upsert", "flush", "delete_documents"]),
        ("lexical", "commit"),
    ],
)
def test_a_store_that_comes_back_loses_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    ingest(index, rows_of("a", chunks=2))
    store = getattr(index, name)()
    original, failures = getattr(store, method), [StoreUnavailable("gone"), StoreUnavailable("gone")]

    def flaky(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return original(*args, **kwargs)

    monkeypatch.setattr(store, method, flaky)
    run = begun(index, "a", name="run-2")
    write_rows(table(rows_of("a", chunks=1, digest="d2")), index, run, patience_s=60)
    finished = finish(index, run, ledger(index), patience_s=60)[1]
    assert waits == [0.5, 1.0]
    assert (finished.documents, finished.unfinished) == (1, 0)
    assert ids(index.visual()) == ["a#img-0"]
    assert ids(index.text()) == ids(index.lexical()) == ["a#txt-0"]


def test_writing_the_same_rows_again_changes_nothing(index: Index) -> None:
    first = ingest(index, rows_of("a", 3), rows_of("b", 1))
    again = ingest(index, rows_of("a", 3), rows_of("b", 1), name="run-2")
    assert (again.documents, again.images, again.chunks) == (first.documents, first.images, first.chunks)
    assert index.visual().count() == 2
    assert index.text().count() == index.lexical().count() == 4
    assert ledger(index).totals()["documents"] == 2


def test_a_refused_row_is_acknowledged_and_not_written(index: Index) -> None:
    image, chunk, document = rows_of("a")
    done = ingest(index, [refuse(image, "decode", "a.png: no picture"), chunk, document])
    assert (done.documents, done.images, done.chunks, done.rejected) == (1, 0, 1, 1)
    assert index.visual().count() == 0
    assert entry(index, "a")["status"] == "partial"
    assert letters(index) == [
        {"document_id": "a", "source": "/a.png", "stage": "decode", "reason": "a.png: no picture"}
    ]


class Refusing(MemoryLexicalStore):
    """Never takes a chunk that says "poison"."""

    def upsert(self, parts: Sequence[Part]) -> None:
        super().upsert([part for part in parts if "poison" not in part.text])
        if reasons := {part.key: "immense term" for part in parts if "poison" in part.text}:
            raise PartsRefused(f"{len(reasons)} parts were refused", reasons)


def test_a_chunk_that_a_store_refuses_is_a_dead_letter_and_every_other_row_is_stored(index: Index) -> None:
    lexical = Refusing()
    index.lexical = lambda: lexical  # type: ignore[method-assign]
    picture, good, document = rows_of("a")
    bad = part_rows(chunk_part("a", "poison", 1))
    record = Recorded()
    run = begun(index, "a", "b")
    batch = [picture, good, bad, document | {"num_parts": 3}, *rows_of("b")]
    assert write_rows(table(batch), index, run, record) == 7
    finished = finish(index, run, ledger(index))[1]
    assert (finished.documents, finished.rejected, finished.unfinished) == (2, 1, 0)
    assert ids(index.visual()) == ["a#img-0", "b#img-0"]
    assert ids(index.text()) == ids(lexical) == ["a#txt-0", "b#txt-0"]
    assert (entry(index, "a")["status"], entry(index, "b")["status"]) == ("partial", "complete")
    assert letters(index) == [
        {"document_id": "a", "source": "/a.txt", "stage": "store", "reason": "immense term"}
    ]
    assert record.counted["mmrag_ingest_rejected", "store"] == 1
    assert record.counted["mmrag_ingest_parts", "chunk"] == 2


def test_of_a_chunk_that_a_store_refuses_no_earlier_version_stays(index: Index) -> None:
    lexical = Refusing()
    index.lexical = lambda: lexical  # type: ignore[method-assign]
    ingest(index, rows_of("a"))
    picture, _, document = rows_of("a", digest="d2")
    ingest(index, [picture, part_rows(chunk_part("a", "poison")), document], name="run-2")
    assert ids(index.text()) == ids(lexical) == []
    assert entry(index, "a")["chunks"] == 0


def test_a_document_of_refused_parts_only_is_rejected_and_known(index: Index) -> None:
    rows = [refuse(row, "metadata", "no") if row["kind"] != DOCUMENT else row for row in rows_of("a")]
    ingest(index, rows)
    assert (entry(index, "a")["status"], entry(index, "a")["rejected"]) == ("rejected", 2)


def test_what_listing_refused_is_a_dead_letter_too(index: Index) -> None:
    done = ingest(index, rows_of("a"), refused=[Rejected("b", "/b", "list", "links out")])
    assert done.rejected == 1
    assert letters(index) == [{"document_id": "b", "source": "/b", "stage": "list", "reason": "links out"}]


def test_a_clean_run_writes_no_dead_letters(index: Index) -> None:
    ingest(index, rows_of("a"))
    assert not (index.directory / "rejected").exists()


def test_a_write_that_fails_is_not_acknowledged(index: Index) -> None:
    run = begun(index, "a")
    index.text = lambda: DownStore()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        write_rows(table(rows_of("a")), index, run)
    assert run.acknowledged() == 0


def test_a_vector_with_nan_is_refused_by_the_store_and_not_acknowledged(index: Index) -> None:
    run = begun(index, "a")
    broken = np.full(6, np.nan, np.float32).tobytes()
    with pytest.raises(StoreError, match="NaN"):
        write_rows(table([part_rows(image_part("a"), vector=broken)]), index, run)
    assert run.acknowledged() == 0


def test_what_was_acknowledged_is_counted_and_each_store_timed(index: Index) -> None:
    image, *rest = rows_of("a", 2)
    record = Recorded()
    write_rows(table([refuse(image, "decode", "no picture"), *rest]), index, begun(index), record)
    assert record.counted == {
        ("mmrag_ingest_rejected", "decode"): 1,
        ("mmrag_ingest_parts", "chunk"): 2,
        ("mmrag_ingest_documents",): 1,
    }
    stores = [("mmrag_ingest_upsert_seconds", store) for store in ("lexical", "text")]
    assert [key for key, _ in record.timed] == stores  # no picture was left for the other
    assert all(0 < seconds < 60 for _, seconds in record.timed)


def test_what_a_store_did_not_take_is_not_counted(index: Index) -> None:
    record = Recorded()
    index.text = lambda: DownStore()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        write_rows(table(rows_of("a")), index, begun(index, "a"), record)
    assert record.counted == {}
    stores = [("mmrag_ingest_upsert_seconds", store) for store in ("visual", "lexical")]
    assert [key for key, _ in record.timed] == stores


def test_what_the_listing_refused_is_counted_by_its_stage() -> None:
    record = Recorded()
    count_refused([Rejected(name, f"/{name}", "list", "links out") for name in "ab"], record)
    assert record.counted == {("mmrag_ingest_rejected", "list"): 2}


def test_progress_counts_acknowledged_rows(index: Index) -> None:
    run = begun(index, "a", "b")
    assert write_rows(table(rows_of("a", 3)), index, run) == 5
    write_rows(table(rows_of("b")), index, run)
    assert run.acknowledged() == 5 + 3


# Finishing.


def test_a_document_whose_rows_came_in_several_writes_is_complete(index: Index) -> None:
    first, *rest = rows_of("a", 3)
    done = ingest(index, rest, [first])
    assert (done.documents, done.unfinished) == (1, 0)
    assert entry(index, "a") | {"images": 1, "chunks": 3, "status": "complete", "run": "run-1"} == entry(
        index, "a"
    )


def test_a_write_that_was_tried_again_counts_once(index: Index) -> None:
    done = ingest(index, rows_of("a"), rows_of("a"))
    assert (done.images, done.chunks, done.encoded_images, done.encoded_chunks) == (1, 1, 1, 1)
    assert entry(index, "a")["status"] == "complete"


def test_a_document_that_shrinks_loses_its_stale_parts(index: Index) -> None:
    ingest(index, rows_of("a", 3), rows_of("b", 3))
    ingest(index, rows_of("a", 1, digest="d2"), name="run-2")
    assert ids(index.text()) == ids(index.lexical()) == ["a#txt-0", "b#txt-0", "b#txt-1", "b#txt-2"]
    assert entry(index, "a")["chunks"] == 1


def test_a_picture_that_turned_bad_leaves_the_stores(index: Index) -> None:
    ingest(index, rows_of("a"))
    image, chunk, document = rows_of("a", digest="d2")
    ingest(index, [refuse(image, "decode", "bad"), chunk, document], name="run-2")
    assert ids(index.visual()) == []


def test_pruned_documents_leave_every_store_and_the_ledger(index: Index) -> None:
    ingest(index, rows_of("a", chunks=2), rows_of("b"))
    run = begun(index, name="run-2")
    updated, _ = finish(index, run, ledger(index), pruned=[store_key("", "a")])
    assert ids(index.visual()) == ["b#img-0"]
    assert ids(index.text()) == ids(index.lexical()) == ["b#txt-0"]
    assert updated.get(store_key("", "a")) is None
    assert ledger(index).totals()["documents"] == 1


@pytest.mark.parametrize("name", ["visual", "text", "lexical"])
def test_a_document_whose_pruning_was_cut_short_comes_back_whole(index: Index, name: str) -> None:
    item = Item("row", "a", "/a", "/", "/")
    rows = rows_of("a", digest=document_digest(item, []))
    ingest(index, rows)
    assert planned(index, item).unchanged == 1
    store = getattr(index, name)
    setattr(index, name, DownStore)
    run = begun(index, name="prune")
    with pytest.raises(StoreUnavailable):
        finish(index, run, ledger(index), pruned=[store_key("", "a")])
    setattr(index, name, store)
    recover(index)
    assert entry(index, "a")["status"] == "unfinished"
    assert planned(index, item).changed == 1
    ingest(index, rows, name="run-2")
    assert ids(index.visual()) == ["a#img-0"]
    assert ids(index.text()) == ids(index.lexical()) == ["a#txt-0"]
    assert planned(index, item).unchanged == 1


def held(document: str, content: str) -> list[dict[str, Any]]:
    """The rows of a document with this picture, whose files are there."""
    image, chunk, described = rows_of(document)
    return [image | {"content": content}, chunk, described]


def keep_files(index: Index, *contents: str) -> None:
    for content in contents:
        write_preview(index.previews, content, b"a JPEG")
        save_reading(index.readings, content, Reading("r", ()))
        caption = caption_path(index.captions, content)
        caption.parent.mkdir(parents=True, exist_ok=True)
        caption.write_text("{}")


def files(index: Index) -> set[str]:
    kept = {path.stem for path in index.previews.glob("*/*")}
    assert kept == {path.stem for path in index.readings.glob("*/*")}
    assert kept == {path.stem for path in index.captions.glob("*/*")}
    return kept


def test_pictures_go_with_the_last_document_that_holds_them(index: Index) -> None:
    shared, own = "ab" * 32, "cd" * 32
    ingest(index, held("a", shared), held("b", shared), held("c", own))
    keep_files(index, shared, own)
    for number, (document, left) in enumerate([("a", {shared, own}), ("b", {own}), ("c", set())]):
        run = begun(index, name=f"prune-{number}")
        finish(index, run, ledger(index), pruned=[store_key("", document)])
        assert files(index) == left


def test_pictures_stay_while_a_rebuild_shares_them(index: Index) -> None:
    picture = "ab" * 32
    ingest(index, held("a", picture))
    keep_files(index, picture)
    index.manifest().save(index.directory, NEXT)
    finish(index, begun(index, name="run-2"), ledger(index), pruned=[store_key("", "a")])
    assert files(index) == {picture}


def test_finishing_removes_the_run_and_leaves_no_other_file(index: Index) -> None:
    ingest(index, rows_of("a"))
    assert sorted(p.name for p in index.directory.iterdir()) == [
        "index.json",
        "ledger",
        "pictures.parquet",
        "runs",
        "writer.lock",
    ]
    assert list((index.directory / "runs").iterdir()) == []


# A run that was cut short.


def cut_short(index: Index, documents: Sequence[str], *writes: Sequence[dict[str, Any]]) -> Run:
    run = begun(index, *documents, name="dead")
    for batch in writes:
        write_rows(table(batch), index, run)
    return run


def test_what_was_acknowledged_whole_is_not_done_again(index: Index) -> None:
    cut_short(index, ["a", "b"], rows_of("a"), rows_of("b")[:1])
    recovered = recover(index)
    assert entry(index, "a")["status"] == "complete"
    assert entry(index, "b")["status"] == "unfinished"
    items = [Item("row", name, f"/{name}", "/", "/") for name in "ab"]
    plan = make_plan(Listing(iter(items), {}), recovered, "f1", index.directory / "next")
    assert plan.to_do == 2  # the fake digest d1 is no digest of an item; b has none at all
    assert entry(index, "b")["digest"] == ""
    assert list(unfinished_runs(index.directory)) == []


def test_parts_of_a_document_that_shrank_before_the_rerun_are_found_and_deleted(index: Index) -> None:
    cut_short(index, ["a"], rows_of("a", 3)[:-1])  # written, but its document row never came
    recover(index)
    ingest(index, rows_of("a", 1, digest="d2"), name="run-2")
    assert ids(index.text()) == ["a#txt-0"]


def test_parts_written_but_never_acknowledged_are_deleted_too(index: Index) -> None:
    run = cut_short(index, ["a"], rows_of("a", 3))
    for ack in run.acks.iterdir():
        ack.unlink()  # killed between the upsert and its acknowledgement
    recover(index)
    ingest(index, rows_of("a", 1, digest="d2"), name="run-2")
    assert ids(index.lexical()) == ["a#txt-0"]


def test_a_document_that_changes_back_after_a_cut_is_written_again(index: Index) -> None:
    ingest(index, rows_of("a", 1, digest="d1"))
    cut_short(index, ["a"], rows_of("a", 2, digest="d2")[:2])
    recover(index)
    # The stores hold some of d2: a file that is again as d1 was must not count as unchanged.
    assert entry(index, "a")["digest"] == ""
    assert entry(index, "a")["chunks"] == 1  # what was last known


def test_recovery_may_be_cut_short_and_repeated(index: Index) -> None:
    run = cut_short(index, ["a", "b"], rows_of("a"))
    finish_once = recover(index)
    run.begin()  # as if the run's directory had not been removed
    assert recover(index).totals()["documents"] == finish_once.totals()["documents"] == 2


def test_a_worker_that_outlived_its_run_writes_nothing(index: Index) -> None:
    orphaned = cut_short(index, ["a"], rows_of("a", 2)[:1])
    recover(index)
    ingest(index, rows_of("a", 1), name="run-2")
    with pytest.raises(MmragError, match="run dead has ended"):
        write_rows(table(rows_of("a", 2)), index, orphaned)
    assert ids(index.text()) == ids(index.lexical()) == ["a#txt-0"]


def test_a_worker_that_waits_for_a_store_looks_again_whether_its_run_has_ended(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(index, "a")
    store = index.text
    monkeypatch.setattr(index, "text", DownStore)

    def meanwhile(_: float) -> None:
        monkeypatch.setattr(index, "text", store)
        recover(index)

    monkeypatch.setattr(patience.time, "sleep", meanwhile)
    with pytest.raises(MmragError, match="has ended"):
        write_rows(table(rows_of("a")), index, run, patience_s=60)
    assert ids(index.text()) == []


def test_an_acknowledgement_that_comes_while_its_run_ends_does_not_disturb_it(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(index, "a")
    original = shutil.rmtree

    def late(path: Path, **how: Any) -> None:
        with pytest.raises(FileNotFoundError):
            (run.acks / ".late").write_bytes(b"")
        original(path, **how)

    monkeypatch.setattr(shutil, "rmtree", late)
    run.end()
    assert list((index.directory / "runs").iterdir()) == []


def test_a_run_that_had_hardly_begun_leaves_nothing(index: Index) -> None:
    (index.directory / "runs" / "dead" / "acks").mkdir(parents=True)  # before run.json
    begun_only = Run(index.directory, "dead-2", "f1")
    begun_only.begin()  # before the plan
    assert len(recover(index)) == 0
    assert not (index.directory / "runs").exists()


def test_half_a_plan_does_not_stop_the_recovery(index: Index) -> None:
    run = begun(index, "a")
    (run.items / ".000001").write_bytes(b"PAR1 cut sho")
    recover(index)
    assert entry(index, "a")["status"] == "unfinished"


def test_a_plan_of_which_only_half_a_file_was_written_leaves_nothing(index: Index) -> None:
    run = begun(index)
    run.items.mkdir()
    (run.items / ".000001").write_bytes(b"PAR1 cut sho")
    assert len(recover(index)) == 0


def test_an_unfinished_document_keeps_what_was_known_of_it_but_its_scope(index: Index) -> None:
    ingest(index, rows_of("a", 2))
    before = entry(index, "a")
    run = Run(index.directory, "dead", "f2")
    run.begin()
    items = [Item("row", "new", "/m.jsonl", "/m.jsonl", "/", inputs=("/m.jsonl", "/p.png"), tenant="acme")]
    items.append(Item("row", "a", "/elsewhere", "/scope", "/"))
    make_plan(Listing(iter(items), {}), ledger(index), "f2", run.items)
    recover(index)
    same = {"stamp": "", "digest": "", "fingerprint": "f2", "status": "unfinished", "run": "dead"}
    assert entry(index, "a") == before | same | {"scope": "/scope"}
    assert ledger(index).get(store_key("acme", "new")) == same | {
        "document_key": store_key("acme", "new"),
        "document_id": "new",
        "tenant": "acme",
        "source": "/m.jsonl",
        "scope": "/m.jsonl",
        "inputs": ["/m.jsonl", "/p.png"],
        "images": 0,
        "chunks": 0,
        "rejected": 0,
    }


def test_half_an_acknowledgement_counts_as_none(index: Index) -> None:
    run = begun(index, "a")
    write_rows(table(rows_of("a")), index, run)
    (run.acks / ".5f0c").write_bytes(b"PAR1 cut sho")
    assert recover(index).totals()["status"] == {"complete": 1}


def test_dead_letters_of_a_cut_run_are_not_lost(index: Index) -> None:
    image, chunk, document = rows_of("a")
    cut_short(index, ["a"], [refuse(image, "decode", "bad"), chunk, document])
    recover(index)
    assert [letter["reason"] for letter in letters(index, "dead")] == ["bad"]


def test_rows_that_no_store_acknowledged_are_counted_at_the_end(index: Index) -> None:
    run = begun(index, "a", "b")
    write_rows(table(rows_of("a")), index, run)
    assert finish(index, run, ledger(index))[1].unfinished == 1


def test_items_of_a_plan_name_the_documents_of_the_ledger() -> None:
    item = Item("row", "散热器", "/a", "/", "/", tenant="acme")
    part = Part("散热器#txt-0", "chunk", "散热器", "/a", tenant="acme")
    assert store_key(item.tenant, item.document_id) == part.document_key
