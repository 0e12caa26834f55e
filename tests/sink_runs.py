"""Runs by hand: what was planned, the rows of documents, and what stores and ledger hold then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from fakes import chunk_part, image_part

from pipelines.core.index import Index
from pipelines.core.types import Part, store_key
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import Plan, make_plan
from pipelines.ingest.rows import DOCUMENT, part_row, table
from pipelines.ingest.run import Run
from pipelines.ingest.sink import Finished, finish, write_rows
from pipelines.ingest.sources import Item, Listing, Rejected


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
