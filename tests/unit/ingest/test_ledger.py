"""The ledger: one row a document, replaced at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.types import store_key
from pipelines.ingest.ledger import SCHEMA, Ledger


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


EMPTY = Ledger(SCHEMA.empty_table())


def test_a_ledger_that_is_not_there_is_empty(tmp_path: Path) -> None:
    ledger = Ledger.load(tmp_path / "ledger.parquet")
    assert len(ledger) == 0
    assert ledger.get(store_key("", "a")) is None
    assert ledger.totals() == {"documents": 0, "images": 0, "chunks": 0, "rejected": 0, "status": {}}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    EMPTY.updated(rows(row("a"), row("散热器", digest="e"))).save(tmp_path / "x" / "ledger.parquet")
    ledger = Ledger.load(tmp_path / "x" / "ledger.parquet")
    assert ledger.get(store_key("", "散热器")) == row("散热器", digest="e")
    assert store_key("", "a") in ledger
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["ledger.parquet"]


def test_an_update_replaces_the_rows_of_its_documents_and_keeps_the_others() -> None:
    ledger = EMPTY.updated(rows(row("a"), row("b"))).updated(rows(row("b", images=7), row("c")))
    assert len(ledger) == 3
    images = {name: ledger.get(store_key("", name))["images"] for name in "abc"}
    assert images == {"a": 1, "b": 7, "c": 1}


def test_an_update_leaves_the_old_ledger_as_it_was() -> None:
    old = EMPTY.updated(rows(row("a")))
    old.updated(rows(row("a", images=9)))
    assert old.get(store_key("", "a"))["images"] == 1


def test_a_ledger_from_before_scopes_is_read(tmp_path: Path) -> None:
    pq.write_table(rows(row("a")).drop_columns(["scope"]), tmp_path / "ledger.parquet")
    ledger = Ledger.load(tmp_path / "ledger.parquet")
    assert ledger.get(store_key("", "a")) == row("a", scope=None)
    assert len(ledger.in_scopes(["/"], without=np.zeros(1, np.bool_))) == 0


def test_an_empty_update_changes_nothing() -> None:
    ledger = EMPTY.updated(rows(row("a")))
    assert ledger.updated(rows()).get(store_key("", "a")) == row("a")


def test_documents_are_found_by_id_in_one_tenant_or_in_all() -> None:
    ledger = EMPTY.updated(rows(row("a", "x"), row("a", "y"), row("b", "x")))
    assert len(ledger.with_documents_of(["a"])) == 2
    assert ledger.with_documents_of(["a"], "y")["tenant"].to_pylist() == ["y"]
    assert len(ledger.with_documents_of(["c", "a"], "z")) == 0


def test_totals_add_up_and_count_each_status() -> None:
    ledger = EMPTY.updated(rows(row("a"), row("b", status="partial", rejected=1), row("c", images=3)))
    assert ledger.totals() == {
        "documents": 3,
        "images": 5,
        "chunks": 6,
        "rejected": 1,
        "status": {"complete": 2, "partial": 1},
    }
