"""A dry run refuses at once what the run would refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import SourceError, UsageError
from pipelines.core.index import IndexConfig
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.dry_run import dry_run


def test_an_index_whose_import_has_not_ended_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kb").mkdir()
    (tmp_path / "kb" / "restoring.json").write_text("{}")
    (tmp_path / "note.txt").write_text("The hole spacing is 48 mm.")
    with pytest.raises(UsageError, match="has not ended"):
        dry_run([str(tmp_path / "note.txt")], tmp_path / "kb", IndexConfig(), IngestConfig())


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        dry_run([str(tmp_path / "none")], tmp_path / "kb", IndexConfig(), IngestConfig())
