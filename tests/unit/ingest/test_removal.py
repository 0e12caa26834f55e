"""Deleting documents from every store and the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes import DownStore, chunk_part, image_part, memory_index

from pipelines.core.errors import IndexLocked, StoreUnavailable, UsageError
from pipelines.core.index import Index, IndexConfig
from pipelines.core.types import Part, store_key
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import make_plan
from pipelines.ingest.removal import delete_documents
from pipelines.ingest.rows import DOCUMENT, part_row, table
from pipelines.ingest.run import Run
from pipelines.ingest.sink import write_rows
from pipelines.ingest.sources import Item, Listing
from pipelines.ingest.status import index_status


def fill(index: Index, *documents: tuple[str, str]) -> None:
    """(tenant, id): a picture and a chunk each, and their ledger rows."""
    ledger = Ledger.load(index.directory)
    for tenant, document in documents:
        image, chunk = image_part(document, tenant=tenant), chunk_part(document, "some text", tenant=tenant)
        index.visual().upsert([image], unit(6))
        index.text().upsert([chunk], unit(64))
        index.lexical().upsert([chunk])
        row = {"document_key": store_key(tenant, document), "document_id": document, "tenant": tenant}
        ledger = ledger.changed(pa.Table.from_pylist([row | {"status": "complete"}], schema=SCHEMA))


def unit(dim: int) -> np.ndarray:
    return np.eye(1, dim, dtype=np.float32)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = memory_index(tmp_path / "kb")
    fill(index, ("", "a"), ("", "b"), ("acme", "a"))
    return index


def left(index: Index) -> list[tuple[str, str]]:
    stores = (index.visual(), index.text(), index.lexical())
    held = [sorted((p.tenant, p.document_id) for p in store._parts.values()) for store in stores]
    assert held[0] == held[1] == held[2]
    known = Ledger.load(index.directory).with_documents_of(["a", "b", "c"])
    assert sorted(zip(known["tenant"].to_pylist(), known["document_id"].to_pylist(), strict=True)) == held[0]
    return held[0]


@pytest.mark.parametrize(
    ("ids", "tenant", "expected", "remaining"),
    [
        (["a"], None, (2, []), [("", "b")]),
        (["a"], "acme", (1, []), [("", "a"), ("", "b")]),
        (["a", "b"], "", (2, []), [("acme", "a")]),
        (["b", "zzz"], None, (1, ["zzz"]), [("", "a"), ("acme", "a")]),
        (["zzz"], None, (0, ["zzz"]), [("", "a"), ("", "b"), ("acme", "a")]),
    ],
)
def test_a_document_is_deleted_everywhere_and_no_other(
    index: Index,
    ids: Sequence[str],
    tenant: str | None,
    expected: tuple[int, list[str]],
    remaining: list[tuple[str, str]],
) -> None:
    assert delete_documents(index, ids, tenant) == expected
    assert left(index) == remaining


def test_deleting_again_says_that_it_is_not_there(index: Index) -> None:
    delete_documents(index, ["b"])
    assert delete_documents(index, ["b"]) == (0, ["b"])


@pytest.mark.parametrize("name", ["visual", "text", "lexical"])
def test_a_deletion_that_was_cut_short_is_seen_and_can_be_done_again(index: Index, name: str) -> None:
    item = Item("row", "b", "/b", "/", "/")
    ledger = Ledger.load(index.directory)
    as_ingested = {"digest": document_digest(item, []), "inputs": [], "fingerprint": "f1", "rejected": 0}
    rows = [row | as_ingested for row in ledger.with_documents_of(["b"]).to_pylist()]
    ledger = ledger.changed(pa.Table.from_pylist(rows, schema=SCHEMA))
    assert make_plan(Listing(iter([item]), {}), ledger, "f1").unchanged == 1
    store = getattr(index, name)
    setattr(index, name, DownStore)
    with pytest.raises(StoreUnavailable):
        delete_documents(index, ["b"])
    setattr(index, name, store)
    assert make_plan(Listing(iter([item]), {}), Ledger.load(index.directory), "f1").changed == 1
    assert delete_documents(index, ["b"]) == (1, [])
    assert left(index) == [("", "a"), ("acme", "a")]


def test_what_a_dead_run_left_can_be_deleted_and_does_not_come_back(index: Index) -> None:
    run = Run(index.directory, "dead", "f1")
    run.begin()
    listing = Listing(iter([Item("row", "c", "/c", "/", "/")]), {})
    make_plan(listing, Ledger(index.directory), "f1", run.items)
    chunk = part_row(chunk_part("c", "text"), vector=unit(64).tobytes())
    document = part_row(Part("c", "chunk", "c", "/c")) | {"kind": DOCUMENT, "num_parts": 1, "digest": "d"}
    write_rows(table([chunk, document]), index, run)
    assert delete_documents(index, ["c"]) == (1, [])
    assert left(index) == [("", "a"), ("", "b"), ("acme", "a")]
    assert index_status(index)["unfinished_runs"] == []


def test_deleting_needs_no_model(index: Index) -> None:
    def never() -> None:
        raise AssertionError("loaded")

    index.encoder = index.embedder = never  # type: ignore[assignment]
    assert delete_documents(index, ["b"]) == (1, [])


def test_deleting_from_no_index_is_an_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no index"):
        delete_documents(Index(tmp_path / "nowhere", IndexConfig()), ["a"])
    assert not (tmp_path / "nowhere").exists()


def test_an_index_that_is_being_written_is_left_alone(index: Index) -> None:
    with index.write_lock(), pytest.raises(IndexLocked):
        delete_documents(index, ["a"])


def test_status_counts_what_the_stores_hold(index: Index) -> None:
    status = index_status(index)
    assert status["stores"] == {"visual": 3, "text": 3, "lexical": 3}
    assert status["ledger"]["documents"] == 3
    assert status["dead_letters"] == 0
