"""A dry run tells what the run would do, and refuses at once what that would refuse."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from fakes import shelved_index

from pipelines.core.errors import SourceError, UsageError
from pipelines.core.index import IndexConfig
from pipelines.ingest import dry_run as module
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.dry_run import DryRun, dry_run
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import fingerprint_of, make_plan
from pipelines.ingest.rebuild import begin
from pipelines.ingest.sink import Run
from pipelines.ingest.sources import list_items


def test_an_index_whose_import_has_not_ended_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "restoring.json").write_text("{}")
    (tmp_path / "note.txt").write_text("The hole spacing is 48 mm.")
    with pytest.raises(UsageError, match="has not ended"):
        dry_run([str(tmp_path / "note.txt")], tmp_path / "kb", IndexConfig(), IngestConfig())


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        dry_run([str(tmp_path / "none")], tmp_path / "kb", IndexConfig(), IngestConfig())


@pytest.fixture
def kb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A live index of the one note in a folder."""
    monkeypatch.setattr(module, "Index", lambda directory, config, **how: shelved_index(directory, **how))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("The hole spacing is 48 mm.")
    with shelved_index(tmp_path / "kb", writable=True) as index, index.write_lock():
        index.create()
        row = {"document_key": "k", "document_id": "a", "tenant": "", "scope": str(tmp_path / "notes")}
        Ledger(index.home).changed(pa.Table.from_pylist([row | {"status": "complete"}], schema=SCHEMA))
    return tmp_path / "kb"


def would(kb: Path, source: str) -> DryRun:
    return dry_run([str(kb.parent / source)], kb, IndexConfig(), IngestConfig(), rebuild=True)


def test_a_rebuild_would_ingest_everything_and_its_dry_run_begins_nothing(kb: Path) -> None:
    assert (would(kb, "notes").new, would(kb, "notes").unfinished_runs) == (1, ())
    assert not (kb / "next.json").exists()


def test_a_half_made_rebuild_would_be_taken_up(kb: Path) -> None:
    listing = list_items([str(kb.parent / "notes")], IngestConfig().sources)
    with shelved_index(kb, writable=True, building=True) as index, index.write_lock():
        begin(index, listing.scopes, 0.5)
        run = Run(index.home, "dead", fingerprint_of(index, IngestConfig()))
        run.begin()
        make_plan(listing, Ledger(index.home), run.fingerprint, run.items, whole=True)
    assert would(kb, "notes").unfinished_runs == ("dead",)


def test_a_rebuild_without_one_of_the_sources_is_refused(kb: Path) -> None:
    (kb.parent / "other.txt").write_text("Another.")
    with pytest.raises(UsageError, match="notes; name them too"):
        would(kb, "other.txt")


def test_there_is_nothing_to_rebuild_without_an_index(kb: Path) -> None:
    with pytest.raises(UsageError, match="no index at"):
        dry_run([str(kb.parent / "notes")], kb.parent / "none", IndexConfig(), IngestConfig(), rebuild=True)
    assert not (kb.parent / "none").exists()
