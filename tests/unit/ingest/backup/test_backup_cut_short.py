"""Exports that are cut short, and stores that are not what the ledger says: a whole export stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported import cut_at, drop_a_chunk, empty, files, is_one_export, of_the_first_format
from fakes import DownStore, chunk_part, image_part

from pipelines.core.errors import (
    StoreError,
    StoreUnavailable,
    UsageError,
)
from pipelines.core.index import Index, IndexConfig
from pipelines.core.types import store_key
from pipelines.ingest import archive
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.ledger import Ledger


def test_a_first_export_that_was_cut_short_is_none_and_can_be_made_again(
    index: Index, tmp_path: Path
) -> None:
    with cut_at(index.text(), "scan"):
        export_index(index, str(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"no whole export: no export\.json, which is written last"):
        import_index(empty(index), str(tmp_path / "out"))
    export_index(index, str(tmp_path / "out"))
    assert is_one_export(tmp_path / "out")


@pytest.mark.parametrize("first_format", [False, True])
@pytest.mark.parametrize(
    ("method", "call", "chunks"),
    [
        ("_clear", 1, 8),
        ("_write_shard", 3, 8),
        ("_swap", 1, 8),
        ("_clear", 2, 7),  # the new one is whole
    ],
)
def test_an_export_that_is_cut_short_leaves_a_whole_one(
    index: Index, export: Path, method: str, call: int, chunks: int, first_format: bool
) -> None:
    if first_format:
        of_the_first_format(export)
    drop_a_chunk(index)
    with cut_at(archive.Archive, method, call):
        export_index(index, str(export))
    assert import_index(empty(index), str(export)).chunks == chunks
    export_index(index, str(export))
    assert is_one_export(export)
    assert import_index(empty(index, "kb3"), str(export)).chunks == 7


def test_so_it_is_where_files_are_no_disks(index: Index, tmp_path: Path) -> None:
    address = f"fsspec+memory://{tmp_path}/export"
    export_index(index, address)
    drop_a_chunk(index)
    with cut_at(archive.Archive, "_write_shard", 3):
        export_index(index, address)
    assert import_index(empty(index), address).chunks == 8
    export_index(index, address)
    assert import_index(empty(index, "kb3"), address).chunks == 7
    there = archive.Archive(address)
    names = {there.contents().folder, "export.json"}
    assert {info.base_name for info in there._list()} == names


def test_half_a_new_manifest_is_none(index: Index, export: Path) -> None:
    """What a kill between writing and moving it leaves."""
    (export / "export.json.new").write_bytes(b'{"form')
    (export / "export.unfinished").write_bytes(b"")
    assert import_index(empty(index), str(export)).chunks == 8
    export_index(index, str(export))
    assert is_one_export(export)


@pytest.mark.parametrize("name", ["visual", "text", "lexical"])
def test_stores_that_lost_something_are_not_exported(index: Index, export: Path, name: str) -> None:
    before = files(export)
    store = index.stores[name]()
    lost = chunk_part("rose", "") if name != "visual" else image_part("rose")
    store.delete([lost.key])
    told = rf"{name} (3|7) parts, not (4|8)\)\. Nothing was exported\..*--rebuild"
    with pytest.raises(StoreError, match=told):
        export_index(index, str(export))
    assert files(export) == before


def test_a_store_that_is_down_leaves_the_export_before(index: Index, export: Path) -> None:
    before = files(export)
    index.text = lambda: DownStore()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable):
        export_index(index, str(export))
    assert files(export) == before


def test_unfinished_documents_may_have_any_number_of_parts(index: Index, tmp_path: Path) -> None:
    """Half of a new version of the rose was written, and more was to come."""
    new = ["two more", "texts"]
    chunks = [chunk_part("rose", text, 2 + n) for n, text in enumerate(new)]
    index.text().upsert(chunks, index.embedder().embed_passages(new))
    index.lexical().upsert(chunks[:1])
    Ledger.load(index.directory).unfinished([store_key("", "rose")])
    export_index(index, str(tmp_path / "export"))
    index.visual().delete([image_part(document).key for document in ("rose", "sea")])
    with pytest.raises(StoreError, match="visual 2 parts, not 3 or more"):
        export_index(index, str(tmp_path / "export"))


def test_no_store_is_made(index: Index, tmp_path: Path) -> None:
    embedded = Index(index.directory, IndexConfig(), writable=True)
    with embedded, pytest.raises(StoreError, match=r"no vectors here.*Nothing was exported"):
        export_index(embedded, str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()
    assert not (index.directory / "vectors").exists()
    assert not (index.directory / "lexical").exists()
