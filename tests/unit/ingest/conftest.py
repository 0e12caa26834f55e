"""The index that runs are written into."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import memory_index

from pipelines.core.index import Index
from pipelines.ingest import acknowledged


@pytest.fixture(params=[acknowledged.AT_ONCE, 2], ids=["at once", "in shares"])
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Index:
    """An empty one. A run's acknowledgements are read all at once, or some documents at a time."""
    monkeypatch.setattr(acknowledged, "AT_ONCE", request.param)
    return memory_index(tmp_path / "kb")
