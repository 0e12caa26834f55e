"""A store that lost what it acknowledged is told at the end of a run."""

from __future__ import annotations

import logging

import pyarrow as pa
import pytest
from fakes import chunk_part
from sink_runs import ingest, ledger, rows_of

from pipelines.core.index import Index
from pipelines.core.types import store_key
from pipelines.ingest.counts import warn_of_disagreement
from pipelines.ingest.ledger import SCHEMA


def test_stores_that_hold_what_the_ledger_says_are_not_told(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(index, rows_of("a", chunks=2), rows_of("b"))
    ingest(index, rows_of("a", chunks=1, digest="d2"), name="run-2")
    assert warn_of_disagreement(index, ledger(index)) == []
    assert not caplog.records


def test_a_store_that_lost_parts_is_told_with_what_mends_it(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(index, rows_of("a", chunks=2))
    index.lexical().delete([chunk_part("a", "", 1).key])
    with caplog.at_level(logging.WARNING):
        assert warn_of_disagreement(index, ledger(index)) == ["lexical 1 parts, not 2"]
    [record] = caplog.records
    assert "(lexical 1 parts, not 2)" in record.getMessage()
    assert "--rebuild" in record.getMessage()


def test_of_an_unfinished_document_any_part_may_be_there(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(index, rows_of("a", chunks=2), rows_of("b", chunks=2))
    known = ledger(index).unfinished([store_key("", "a")])
    index.lexical().delete([chunk_part("a", "", 1).key])
    assert warn_of_disagreement(index, known) == []
    assert not caplog.records
    index.lexical().delete([chunk_part("a", "", 0).key, chunk_part("b", "", 0).key])
    assert warn_of_disagreement(index, known) == ["lexical 1 parts, not 2 or more"]


def test_an_empty_index_agrees(index: Index) -> None:
    assert warn_of_disagreement(index, ledger(index).changed(pa.Table.from_pylist([], schema=SCHEMA))) == []
