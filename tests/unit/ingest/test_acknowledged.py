"""The acknowledgements of a run are shared out in few pieces, however many files they stand in."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import memory_index
from sink_runs import begun, rows_of

from pipelines.ingest import acknowledged
from pipelines.ingest.rows import table
from pipelines.ingest.run import Run
from pipelines.ingest.sink import write_rows

DOCUMENTS = [f"d{n}" for n in range(10)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of 30 rows, each acknowledged alone."""
    index = memory_index(tmp_path / "kb")
    run = begun(index, *DOCUMENTS)
    for document in DOCUMENTS:
        for row in rows_of(document):
            write_rows(table([row]), index, run)
    return run


@pytest.mark.parametrize("at_once", [1, 10, 29, 30])
def test_a_share_has_all_of_its_documents(run: Run, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(acknowledged, "AT_ONCE", at_once)
    shares = [share["document_id"].to_pylist() for share in acknowledged.shares(run)]
    assert len(shares) == -(-30 // at_once)
    assert sorted(name for share in shares for name in share) == sorted(3 * DOCUMENTS)
    assert all(share.count(name) == 3 for share in shares for name in share)


def test_a_file_costs_no_row_group_of_each_share(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledged, "AT_ONCE", 10)
    list(acknowledged.shares(run))
    footers = [pq.read_metadata(file) for file in (run.directory / "shares").iterdir()]
    groups = [footer.row_group(n).num_rows for footer in footers for n in range(footer.num_row_groups)]
    assert len(footers) == 3
    assert len(groups) <= 3 * 3
    assert min(groups) > 0
