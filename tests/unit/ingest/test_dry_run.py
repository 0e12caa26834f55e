"""A dry run tells what the run would do, and refuses at once what that would refuse."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from fakes import shelved_index

from pipelines.console import print_dry_run
from pipelines.core.errors import MmragError, SourceError, UsageError
from pipelines.core.index import IndexConfig
from pipelines.core.types import store_key
from pipelines.ingest import dry_run as module
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.dry_run import DryRun, dry_run
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import fingerprint_of, make_plan
from pipelines.ingest.rebuild import begin
from pipelines.ingest.run import Run
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


def listed_in(kb: Path, scope: str, *ids: str) -> None:
    """These documents of the live index were listed in this source."""
    row = {"tenant": "", "scope": str(kb.parent / scope), "status": "complete", "images": 0, "chunks": 1}
    rows = [row | {"document_key": store_key("", name), "document_id": name} for name in ids]
    Ledger.load(kb).changed(pa.Table.from_pylist(rows, schema=SCHEMA))


@pytest.fixture
def kb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A live index of the one note in a folder."""
    monkeypatch.setattr(module, "Index", lambda directory, config, **how: shelved_index(directory, **how))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("The hole spacing is 48 mm.")
    with shelved_index(tmp_path / "kb", writable=True) as index, index.write_lock():
        index.create()
    listed_in(tmp_path / "kb", "notes", "notes/a.txt")
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


def test_a_rebuild_would_delete_the_live_documents_that_are_not_listed_any_more(kb: Path) -> None:
    listed_in(kb, "notes", "notes/old.txt")
    found = would(kb, "notes")
    assert (found.new, found.gone, found.pruned) == (1, 1, 1)


@pytest.mark.parametrize("begun", [False, True])
def test_a_rebuild_that_would_lose_most_documents_is_refused_as_the_swap_would(kb: Path, begun: bool) -> None:
    listed_in(kb, "notes", "notes/old.txt", "notes/older.txt")
    if begun:  # what was made before it was cut short is not what is read
        with shelved_index(kb, writable=True, building=True) as index, index.write_lock():
            begin(index, [str(kb.parent / "notes")], 0.5)
    with pytest.raises(MmragError, match="lost 2 of the 3 documents of the index, and nothing was swapped"):
        would(kb, "notes")
    config = IngestConfig(max_pruned_fraction=1)
    allowed = dry_run([str(kb.parent / "notes")], kb, IndexConfig(), config, rebuild=True)
    assert (allowed.new, allowed.pruned) == (1, 2)


# Sources that are gone.


def pruned(kb: Path, source: str) -> DryRun:
    return dry_run([str(kb.parent / source)], kb, IndexConfig(), IngestConfig(), prune=True)


def test_pruning_a_known_source_that_is_gone_would_delete_its_documents_and_no_others(kb: Path) -> None:
    listed_in(kb, "gone.jsonl", *"xyz")
    would = pruned(kb, "gone.jsonl")
    assert (would.new, would.unchanged, would.gone, would.pruned) == (0, 0, 3, 3)


def test_a_source_that_is_gone_is_an_error_without_prune_and_where_nothing_is_known_of_it(kb: Path) -> None:
    listed_in(kb, "gone.jsonl", *"xyz")
    with pytest.raises(SourceError, match="does not exist; a SOURCE"):
        dry_run([str(kb.parent / "gone.jsonl")], kb, IndexConfig(), IngestConfig())
    with pytest.raises(SourceError, match="nor does the index know documents of it"):
        pruned(kb, "typo.jsonl")
    with pytest.raises(SourceError, match="nor does the index know documents of it"):
        dry_run([str(kb.parent / "gone.jsonl")], kb / "none", IndexConfig(), IngestConfig(), prune=True)
    assert not (kb / "none").exists()


def test_a_large_source_that_is_gone_is_taken_for_an_accident(kb: Path) -> None:
    listed_in(kb, "gone.tar", *map(str, range(101)))
    with pytest.raises(MmragError, match=r"gone\.tar holds 101 of its 101 documents no more"):
        pruned(kb, "gone.tar")
    config = IngestConfig(max_pruned_fraction=1)
    assert dry_run([str(kb.parent / "gone.tar")], kb, IndexConfig(), config, prune=True).pruned == 101


def test_documents_that_may_be_a_row_that_cannot_be_read_are_told(
    kb: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (kb.parent / "m.jsonl").write_text('{"id": "x", "text": "The hole spacing is 48 mm."}\n{"id": "y", \n')
    listed_in(kb, "m.jsonl", *"xyz")
    would = pruned(kb, "m.jsonl")
    assert (would.gone, would.pruned, would.unclear, len(would.refused)) == (0, 0, 2, 1)
    print_dry_run(would)
    assert "2 that are not listed, but kept" in capsys.readouterr().out


def test_a_run_that_has_not_ended_is_not_said_to_be_dead(capsys: pytest.CaptureFixture[str]) -> None:
    """It may be the one that writes the index now."""
    print_dry_run(DryRun(1, 0, 0, 0, 0, 0, (), ("r1",), 0))
    assert "a run was cut short, or goes on: what it has finished is counted" in capsys.readouterr().out
