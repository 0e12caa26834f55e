"""Writing, acknowledging and finishing a run."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fakes import DownStore, Recorded, chunk_part, image_part
from memory_stores import MemoryLexicalStore
from sink_runs import begun, entry, ids, ingest, ledger, letters, part_rows, planned, rows_of

from pipelines.core import patience
from pipelines.core.errors import PartsRefused, StoreError, StoreUnavailable
from pipelines.core.index import Index
from pipelines.core.previews import write_preview
from pipelines.core.readings import Reading, save_reading
from pipelines.core.types import Part, store_key
from pipelines.ingest import deletion
from pipelines.ingest.captions import caption_path
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.metrics import count_refused
from pipelines.ingest.rows import DOCUMENT, refuse, table
from pipelines.ingest.sink import finish, recover, write_rows
from pipelines.ingest.sources import Item, Rejected


class Clock:
    """On which nobody waits."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


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


@pytest.mark.parametrize("how", ["pruned", "changed"])
def test_healthy_deletes_are_no_outage_and_are_not_made_twice(
    index: Index, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    documents = [f"d{n}" for n in range(6)]
    ingest(index, *(rows_of(document, 2) for document in documents))
    monkeypatch.setattr(deletion, "_BATCH", 1)
    clock, store = Clock(), index.text()
    monkeypatch.setattr(patience, "time", clock)
    original, asked = store.delete_documents, Counter[str]()

    def slow(document_keys: Sequence[str], keep: Sequence[str] = ()) -> None:
        clock.now += 100
        asked.update(document_keys)
        if len(asked) in (4, 6) and asked[document_keys[0]] == 1:
            raise StoreUnavailable("gone")
        original(document_keys, keep=keep)

    monkeypatch.setattr(store, "delete_documents", slow)
    if how == "pruned":
        keys = [store_key("", document) for document in documents]
        finish(index, begun(index, name="run-2"), ledger(index), pruned=keys, patience_s=120)
    else:
        run = begun(index, *documents, name="run-2")
        write_rows(table(row for document in documents for row in rows_of(document, 1)), index, run)
        finish(index, run, ledger(index), patience_s=120)
    assert sorted(asked.values()) == [1, 1, 1, 1, 2, 2]
    assert index.text().count() == (0 if how == "pruned" else 6)


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


def test_a_picture_that_changed_leaves_no_files_unless_another_document_holds_it(index: Index) -> None:
    shared, own, new = "ab" * 32, "cd" * 32, "ef" * 32
    ingest(index, held("a", own), held("b", shared), held("c", shared))
    keep_files(index, shared, own, new)
    ingest(index, held("a", new), held("b", new), name="run-2")
    assert files(index) == {shared, new}
    image, *rest = held("c", new)
    ingest(index, [refuse(image, "decode", "bad"), *rest], name="run-3")
    assert files(index) == {new}


def test_a_picture_of_an_unfinished_document_stays_until_it_is_done(index: Index) -> None:
    first, second, new = "ab" * 32, "cd" * 32, "ef" * 32
    other = part_rows(image_part("a", 1)) | {"content": second}
    image, chunk, described = held("a", first)
    ingest(index, [image, other, chunk, described | {"num_parts": 3}])
    keep_files(index, first, second, new)
    shorter = held("a", new)
    ingest(index, shorter[:1], name="run-2")  # its other rows were not acknowledged
    assert files(index) == {second, new}
    ingest(index, shorter, name="run-3")
    assert files(index) == {new}


def test_finishing_removes_the_run_and_leaves_no_other_file(index: Index) -> None:
    ingest(index, rows_of("a"))
    assert sorted(p.name for p in index.directory.iterdir()) == [
        "identity",
        "index.json",
        "ledger",
        "pictures.parquet",
        "runs",
        "writer.lock",
    ]
    assert list((index.directory / "runs").iterdir()) == []
