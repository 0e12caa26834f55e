"""The ledger: one row a document, in buckets that are replaced together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.errors import MmragError
from pipelines.core.types import store_key
from pipelines.ingest import ledger as module
from pipelines.ingest.ledger import SCHEMA, Ledger, buckets_of, joined


def row(document_id: str, tenant: str = "", **fields: Any) -> dict[str, Any]:
    defaults = {
        "images": 1,
        "chunks": 2,
        "rejected": 0,
        "status": "complete",
        "digest": "d",
        "inputs": ["/a"],
    }
    key = {"document_key": store_key(tenant, document_id), "document_id": document_id, "tenant": tenant}
    rest = {"source": "/a", "scope": "/", "stamp": "s", "fingerprint": "f", "run": "r"}
    return defaults | key | rest | fields


def rows(*entries: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(entries), schema=SCHEMA)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four documents make a bucket, and there are 1, 2 or 8 of these."""
    monkeypatch.setattr(module, "FEW_DOCUMENTS", 4)
    monkeypatch.setattr(module, "BUCKETS", (1, 2, 8))


def many(count: int, **fields: Any) -> pa.Table:
    return rows(*(row(f"d{n:02d}", **fields) for n in range(count)))


def key(document_id: str) -> str:
    return store_key("", document_id)


def contents(ledger: Ledger) -> list[dict[str, Any]]:
    found = [row for table in ledger.tables() for row in table.to_pylist()]
    return sorted(found, key=lambda row: row["document_id"])


def files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in (home / "ledger").iterdir()}


def test_whose_documents_are_held_is_known(tmp_path: Path) -> None:
    refused = row("c", "initech", images=0, chunks=0)
    assert Ledger(tmp_path).tenants() == set()
    ledger = Ledger(tmp_path).changed(rows(row("a", "acme"), row("b"), row("b", "acme"), refused))
    assert ledger.tenants() == {"", "acme"}


def test_parts_of_finished_documents_alone_are_counted_when_asked_for(tmp_path: Path, few: None) -> None:
    ledger = Ledger(tmp_path).changed(rows(*(row(f"d{n}", images=n) for n in range(5))))
    assert not ledger.has_unfinished()
    assert ledger.parts(finished=True) == ledger.parts() == {"visual": 10, "text": 10, "lexical": 10}
    ledger = ledger.unfinished([key("d4")])
    assert ledger.has_unfinished()
    assert ledger.parts() == {"visual": 10, "text": 10, "lexical": 10}
    assert ledger.parts(finished=True) == {"visual": 6, "text": 8, "lexical": 8}


def test_documents_are_held_of_which_there_is_a_part(tmp_path: Path, few: None) -> None:
    known = rows(row("a"), row("b", images=0, chunks=1), row("c", images=0, chunks=0), row("a", tenant="t"))
    ledger = Ledger.load(tmp_path).changed(known).changed(many(9))
    assert ledger.buckets > 1
    named = {key(name): name for name in ("a", "b", "c", "nothing")}
    assert {named[one] for one in ledger.held(named)} == {"a", "b"}
    assert ledger.held([store_key("t", "a"), store_key("t", "b")]) == {store_key("t", "a")}
    assert Ledger.load(tmp_path / "nowhere").held([key("a")]) == set()


def test_a_ledger_that_is_not_there_is_empty(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path)
    assert len(ledger) == 0
    assert ledger.get(key("a")) is None
    assert ledger.totals() == {"documents": 0, "images": 0, "chunks": 0, "rejected": 0, "status": {}}
    assert ledger.changed() == ledger
    assert list(tmp_path.iterdir()) == []


def test_what_was_changed_is_on_disk(tmp_path: Path) -> None:
    changed = Ledger(tmp_path / "x").changed(rows(row("a"), row("散热器", digest="e")))
    ledger = Ledger.load(tmp_path / "x")
    assert ledger == changed
    assert ledger.get(key("散热器")) == row("散热器", digest="e")
    assert [row["document_id"] for row in contents(ledger)] == ["a", "散热器"]


def test_a_change_replaces_the_rows_of_its_documents_and_keeps_the_others(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path).changed(rows(row("a"), row("b"))).changed(rows(row("b", images=7), row("c")))
    assert [row["images"] for row in contents(ledger)] == [1, 7, 1]


def test_documents_leave_and_move_to_other_scopes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path).changed(rows(row("a"), row("b"), row("c", scope="/c")))
    ledger = ledger.changed(rows(row("d")), gone=[key("a")], seen={key("b"): ("/other", "touched")})
    assert {row["document_id"]: row["stamp"] for row in contents(ledger)}["b"] == "touched"
    assert {row["document_id"]: row["scope"] for row in contents(ledger)} == {
        "b": "/other",
        "c": "/c",
        "d": "/",
    }
    assert ledger.scopes() == {"/", "/c", "/other"}
    assert ledger.documents_by_scope() == {"/": 1, "/c": 1, "/other": 1}


def test_a_reader_keeps_the_ledger_that_it_met_through_one_change(tmp_path: Path) -> None:
    old = Ledger(tmp_path).changed(rows(row("a")))
    old.changed(rows(row("a", images=9)))
    assert old.get(key("a")) == row("a")


def test_a_reader_whose_files_are_deleted_meets_the_buckets_as_they_are_now(
    tmp_path: Path, few: None
) -> None:
    met = Ledger(tmp_path).changed(many(4))
    met.changed(many(4, images=2)).changed(many(30, images=3))
    assert Ledger.load(tmp_path).buckets == 8 > met.buckets
    assert not (tmp_path / str(met.files[0])).exists()
    assert contents(met) == many(30, images=3).to_pylist()
    assert len(met) == 30
    assert sum(len(met.bucket(n, of=2)) for n in range(2)) == 30


def test_a_reader_meets_what_a_deletion_in_two_changes_left(tmp_path: Path) -> None:
    met = Ledger(tmp_path).changed(many(3))
    met.unfinished([key("d00")]).changed(gone=[key("d00")])
    assert met.totals()["documents"] == 2


def test_a_file_that_nothing_replaced_is_missed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path).changed(many(3))
    (tmp_path / str(ledger.files[0])).unlink()
    with pytest.raises(MmragError, match="is missing"):
        ledger.totals()
    Ledger.drop(tmp_path)
    with pytest.raises(MmragError, match="was rebuilt a moment ago, run the same command again"):
        ledger.totals()


def test_a_dropped_ledger_is_empty(tmp_path: Path) -> None:
    Ledger(tmp_path).changed(rows(row("a")))
    Ledger.drop(tmp_path)
    Ledger.drop(tmp_path)
    assert len(Ledger.load(tmp_path)) == 0


def test_documents_are_found_by_id_in_one_tenant_or_in_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path).changed(rows(row("a", "x"), row("a", "y"), row("b", "x")))
    assert len(ledger.with_documents_of(["a"])) == 2
    assert ledger.with_documents_of(["a"], "y")["tenant"].to_pylist() == ["y"]
    assert len(ledger.with_documents_of(["c", "a"], "z")) == 0


def test_totals_add_up_and_count_each_status(tmp_path: Path, few: None) -> None:
    ledger = Ledger(tmp_path).changed(many(5)).changed(rows(row("b", status="partial", rejected=1, images=3)))
    assert ledger.buckets == 2
    assert ledger.totals() == {
        "documents": 6,
        "images": 8,
        "chunks": 12,
        "rejected": 1,
        "status": {"complete": 5, "partial": 1},
    }
    assert ledger.parts() == {"visual": 8, "text": 12, "lexical": 12}


# Buckets.


def test_a_ledger_gets_more_buckets_as_it_grows_and_none_fewer(tmp_path: Path, few: None) -> None:
    ledger = Ledger(tmp_path)
    for count, buckets in ((4, 1), (4, 1), (8, 2), (9, 8), (90, 8)):
        ledger = ledger.changed(many(count))
        assert (ledger.buckets, contents(ledger)) == (buckets, many(count).to_pylist())
    ledger = ledger.changed(gone=[key(f"d{n:02d}") for n in range(3, 90)])
    assert (ledger.buckets, contents(ledger)) == (8, many(3).to_pylist())


def test_each_document_is_in_the_bucket_of_its_key(tmp_path: Path, few: None) -> None:
    ledger = Ledger(tmp_path).changed(many(8))
    for number in range(8):
        found = ledger.bucket(number, of=8, columns=["document_key"])["document_key"]
        assert set(buckets_of(found, 8)) <= {number}
        whole = ledger.bucket(number % 2)["document_key"].to_pylist()
        assert set(found.to_pylist()) == {k for k in whole if buckets_of([k], 8)[0] == number}


def test_only_the_buckets_of_what_changed_are_written(tmp_path: Path, few: None) -> None:
    before = Ledger(tmp_path).changed(many(30))
    after = before.changed(rows(row("d07", images=5)))
    [bucket] = buckets_of([key("d07")], 8)
    assert [n for n in range(8) if before.files[n] != after.files[n]] == [bucket]
    assert after.get(key("d07"))["images"] == 5
    assert len(after) == 30


def test_what_was_replaced_is_deleted_by_the_change_after(tmp_path: Path, few: None) -> None:
    first = Ledger(tmp_path).changed(many(4))
    second = first.changed(many(4, images=2))
    assert set(files(tmp_path)) == {"ledger/buckets.json", *first.files, *second.files}
    third = second.changed(many(4, images=3))
    assert set(files(tmp_path)) == {"ledger/buckets.json", *second.files, *third.files}


def test_a_change_that_is_cut_short_between_two_buckets_leaves_the_old_ledger(
    tmp_path: Path, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Ledger(tmp_path).changed(many(30))
    written: list[Path] = []
    write = pq.write_table

    def cut(table: pa.Table, path: Path) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        write(table, path)
        written.append(path)

    monkeypatch.setattr(pq, "write_table", cut)
    with pytest.raises(KeyboardInterrupt):
        before.changed(many(30, images=2))
    monkeypatch.undo()
    assert len(written) == 3
    assert contents(Ledger.load(tmp_path)) == many(30).to_pylist()
    again = Ledger.load(tmp_path).changed(many(30, images=2))
    assert contents(again) == many(30, images=2).to_pylist()
    assert not any(path.exists() for path in written)


def test_two_ledgers_are_joined_by_key_whatever_their_buckets(tmp_path: Path, few: None) -> None:
    small = Ledger(tmp_path / "small").changed(many(3))
    large = Ledger(tmp_path / "large").changed(many(20))
    assert (small.buckets, large.buckets) == (1, 8)
    both = [
        set(one["document_key"].to_pylist()) & set(other["document_key"].to_pylist())
        for one, other in joined(small, large, ["document_key"])
    ]
    assert sorted(k for keys in both for k in keys) == sorted(map(key, ("d00", "d01", "d02")))


# Of an earlier version.


def earlier(home: Path, table: pa.Table) -> Ledger:
    """What it wrote: one file, whatever its size."""
    pq.write_table(table, home / "ledger.parquet")
    return Ledger.load(home)


def test_a_single_file_is_read_and_replaced_by_the_first_change(tmp_path: Path, few: None) -> None:
    old = earlier(tmp_path, many(20))
    assert (len(old), contents(old)) == (20, many(20).to_pylist())
    new = old.changed(rows(row("z")))
    assert contents(Ledger.load(tmp_path)) == contents(new) == [*many(20).to_pylist(), row("z")]
    assert new.buckets == 8
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


def test_a_single_file_of_many_documents_is_split_before_the_work(tmp_path: Path, few: None) -> None:
    split = earlier(tmp_path, many(20)).fitted()
    assert (split.buckets, contents(split)) == (8, many(20).to_pylist())
    assert split.fitted() is split
    assert not (tmp_path / "ledger.parquet").exists()


def test_a_single_file_from_before_scopes_is_read(tmp_path: Path) -> None:
    ledger = earlier(tmp_path, rows(row("a")).drop_columns(["scope"]))
    assert ledger.get(key("a")) == row("a", scope=None)
    assert ledger.scopes() == set()
