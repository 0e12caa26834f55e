"""A small index and its export."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import memory_index
from small_index import fill

from pipelines.core.index import Index
from pipelines.ingest.backup import export_index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = memory_index(tmp_path / "kb")
    fill(index)
    return index


@pytest.fixture
def export(index: Index, tmp_path: Path) -> Path:
    export_index(index, str(tmp_path / "export"))
    return tmp_path / "export"
