"""What a run that was cut short leaves, and its recovery."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes import DownStore
from sink_runs import begun, entry, ids, ingest, ledger, letters, rows_of

from pipelines.core import patience
from pipelines.core.errors import MmragError
from pipelines.core.index import Index
from pipelines.core.stores.tantivy import TantivyStore
from pipelines.core.types import Part, store_key
from pipelines.ingest.plan import make_plan
from pipelines.ingest.rows import refuse, table
from pipelines.ingest.run import Run, unfinished_runs
from pipelines.ingest.sink import finish, recover, write_rows
from pipelines.ingest.sources import Item, Listing


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


def test_after_a_recovery_that_deletes_another_process_can_write(index: Index, tmp_path: Path) -> None:
    with TantivyStore.open(tmp_path / "x", writable=True) as ours:
        index.lexical = lambda: ours  # type: ignore[method-assign]
        ingest(index, rows_of("a", 3))
        cut_short(index, ["a"], rows_of("a", 1, digest="d2"))
        recover(index)
        assert ours.count() == 1
        code = (
            "import sys; from pathlib import Path\n"
            "from pipelines.core.stores.tantivy import TantivyStore\n"
            "with TantivyStore.open(Path(sys.argv[1]), writable=True) as store: store.delete(['none'])\n"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path / "x"], check=True, timeout=60)


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


def test_a_worker_whose_run_ends_while_a_store_keeps_it_writes_to_no_other(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(index, "a")
    store = index.lexical()
    original = store.upsert

    def slow(parts: Sequence[Part]) -> None:
        original(parts)
        recover(index)

    monkeypatch.setattr(store, "upsert", slow)
    with pytest.raises(MmragError, match="has ended"):
        write_rows(table(rows_of("a")), index, run)
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


@pytest.mark.parametrize("damage", [b"", b"\0" * 900, b"PAR1 cut short"])
def test_a_damaged_acknowledgement_counts_as_none_and_its_documents_are_done_again(
    index: Index, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    run = cut_short(index, ["a", "b"], rows_of("a"))
    whole = set(run.acks.iterdir())
    write_rows(table(rows_of("b")), index, run)
    [lost] = set(run.acks.iterdir()) - whole
    lost.write_bytes(damage)
    recover(index)
    assert (entry(index, "a")["status"], entry(index, "b")["status"]) == ("complete", "unfinished")
    assert f"{lost} is damaged" in caplog.text
    ingest(index, rows_of("b"), name="run-2")
    assert ledger(index).totals()["status"] == {"complete": 2}


def test_a_damaged_plan_does_not_stop_the_recovery(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    run = begun(index, "a")
    [planned] = run.items.iterdir()
    planned.write_bytes(b"")  # before a power cut, and so before any row was written
    assert len(recover(index)) == 0
    assert f"{planned} is damaged" in caplog.text


def test_a_store_that_starts_again_is_waited_for_by_a_recovery(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(index, rows_of("a", 2))
    cut_short(index, ["a"], rows_of("a", 1, digest="d2"))
    opened: list[Any] = [DownStore, index.lexical]
    waits: list[float] = []
    monkeypatch.setattr(index, "lexical", lambda: opened[0]())

    def meanwhile(seconds: float) -> None:
        waits.append(seconds)
        del opened[0]

    monkeypatch.setattr(patience.time, "sleep", meanwhile)
    recover(index, patience_s=60)
    assert waits == [0.5]
    assert ids(index.lexical()) == ["a#txt-0"]


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
