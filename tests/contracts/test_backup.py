"""An index moves between real stores: embedded to embedded, to servers, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import ColourModel, WordEmbedder
from small_index import PICTURES, answers, fill

from pipelines.core.encoder import Encoder
from pipelines.core.index import Index, IndexConfig, StoresConfig
from pipelines.core.stores import embedded
from pipelines.core.stores.config import ElasticConfig, MilvusConfig
from pipelines.ingest.backup import export_index, import_index

pytestmark = pytest.mark.slow
EMBEDDER = WordEmbedder()  # one for all: its axes are the words in the order in which it met them


@contextmanager
def opened(directory: Path, stores: StoresConfig | None = None) -> Iterator[Index]:
    config = IndexConfig(stores=stores or StoresConfig())
    index = Index(
        directory, config, writable=True, encoder=lambda: Encoder(ColourModel()), embedder=lambda: EMBEDDER
    )
    try:
        with index:
            yield index
    finally:
        for server in (directory / "vectors").glob("*"):
            embedded.stop(server)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Index]:
    """In embedded stores, exported to `tmp_path / "out"`."""
    with opened(tmp_path / "kb") as index:
        with index.write_lock():
            index.create()
        fill(index, PICTURES | {"copy": ("red", (200, 60, 0))})  # no two pictures score the same
        export_index(index, str(tmp_path / "out"))
        yield index


def parts(export: Path, name: str) -> list[dict[str, object]]:
    return sorted(pq.read_table(export / name).to_pylist(), key=lambda row: row["id"])


def test_embedded_stores_answer_the_same_after_a_move(source: Index, tmp_path: Path) -> None:
    with opened(tmp_path / "kb2") as other:
        import_index(other, str(tmp_path / "out"))
        assert answers(other) == answers(source)


def test_servers_answer_as_the_embedded_stores_did(
    source: Index, tmp_path: Path, milvus_uri: str, elastic_url: str
) -> None:
    servers = StoresConfig(
        milvus=MilvusConfig(uri=milvus_uri, prefix="moved_"), elastic=ElasticConfig(url=elastic_url)
    )
    with opened(tmp_path / "kb3", servers) as other:
        import_index(other, str(tmp_path / "out"))
        assert answers(other) == answers(source)
        export_index(other, str(tmp_path / "again"))
    for name in ("visual", "text"):
        assert parts(tmp_path / "again", name) == parts(tmp_path / "out", name)
