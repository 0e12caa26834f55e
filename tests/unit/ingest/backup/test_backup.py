"""Export and import of an index: the same answers, and where both may go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from exported import data, drop_a_chunk, empty, files, is_one_export, of_the_first_format, rows
from fakes import ColourModel, DownStore, chunk_part, memory_index, picture
from small_index import answers, ledger_row

from pipelines.core.encoder import Encoder
from pipelines.core.errors import (
    IndexLocked,
    SpaceMismatch,
    StoreUnavailable,
    UsageError,
)
from pipelines.core.index import Index
from pipelines.core.readings import Reading, save_reading
from pipelines.core.types import Line
from pipelines.ingest import archive
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import make_plan
from pipelines.ingest.removal import delete_documents
from pipelines.ingest.sources import Item, Listing, SourceConfig, list_items
from pipelines.ingest.status import index_status


@pytest.mark.parametrize("address", ["{}/export", "file://{}/an%20export", "fsspec+memory://{}/export"])
def test_an_imported_index_answers_as_the_exported_one(index: Index, tmp_path: Path, address: str) -> None:
    address = address.format(tmp_path)
    [(picture, _), *_] = sorted((path.stem, path) for path in index.previews.glob("*/*.jpg"))
    save_reading(index.readings, picture, Reading("r", (Line("孔距 48 mm", (1.0, 2.0, 30.5, 9.0), 0.9),)))
    out = export_index(index, address)
    other = empty(index)
    back = import_index(other, address)
    for moved in (out, back):
        assert (moved.documents, moved.images, moved.chunks) == (4, 4, 8)
        assert (moved.previews, moved.missing_previews) == (3, 0)
    assert answers(other) == answers(index)
    assert other.manifest() == index.manifest()
    assert rows(other) == [row | {"stamp": ""} for row in rows(index)]
    assert files(other.previews) == files(index.previews)
    assert files(other.readings) == files(index.readings) != {}
    expected = index_status(index)
    own = {name: expected[name] for name in ("index", "bytes")}
    assert index_status(other) | own == expected


def test_shards_are_written_and_read_one_after_another(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_SHARD_BYTES", 1)
    scan = index.text().scan
    index.text().scan = (
        lambda: (  # type: ignore[method-assign]
            (parts[n : n + 3], vectors[n : n + 3])
            for parts, vectors in scan()
            for n in range(0, len(parts), 3)
        )
    )
    export_index(index, str(tmp_path / "export"))
    assert json.loads((tmp_path / "export/export.json").read_text())["shards"]["text"] == [3, 3, 2]
    assert len(list((data(tmp_path / "export") / "text").iterdir())) == 3
    other = empty(index)
    import_index(other, str(tmp_path / "export"))
    assert answers(other) == answers(index)


def test_an_index_without_documents_comes_back(tmp_path: Path) -> None:
    index = memory_index(tmp_path / "kb")
    export_index(index, str(tmp_path / "export"))
    other = empty(index)
    assert import_index(other, str(tmp_path / "export")).documents == 0
    assert other.manifest() == index.manifest()


def test_an_ingest_of_the_same_sources_does_nothing_afterwards(index: Index, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for colour in ("red", "blue"):
        (tmp_path / "pictures" / f"{colour}.png").write_bytes(picture(colour))
    listed = [
        item for item in list_items([str(tmp_path / "pictures")], SourceConfig()) if isinstance(item, Item)
    ]
    parts = {"images": 2, "chunks": 4}
    known = [
        ledger_row(i.document_id, inputs=list(i.inputs), digest=document_digest(i, i.inputs), **parts)
        for i in listed
    ]
    Ledger.drop(index.directory)
    Ledger(index.directory).changed(pa.Table.from_pylist(known, schema=SCHEMA))
    export_index(index, str(tmp_path / "export"))
    other = empty(index)
    import_index(other, str(tmp_path / "export"))
    plan = make_plan(Listing(iter(listed), {}), Ledger.load(other.directory), "f", tmp_path / "items")
    assert (plan.to_do, plan.unchanged) == (0, 2)


def test_previews_of_deleted_pictures_stay_behind_and_missing_ones_are_counted(
    index: Index, tmp_path: Path
) -> None:
    stray = index.previews / "ab" / ("ab" * 32 + ".jpg")
    stray.parent.mkdir(exist_ok=True)
    first, second, _ = sorted(index.previews.glob("*/*.jpg"))
    shutil.copy(first, stray)
    first.unlink()
    second.write_bytes(b"\xff\xd8\xff cut short")
    moved = export_index(index, str(tmp_path / "export"))
    assert (moved.previews, moved.missing_previews) == (1, 2)


def test_what_is_kept_of_pictures_goes_with_the_documents_of_an_imported_index(
    index: Index, export: Path
) -> None:
    other = empty(index)
    import_index(other, str(export))
    everything = [row["document_id"] for row in rows(other)]
    assert len(list(other.previews.glob("*/*"))) == 3
    delete_documents(other, everything)
    assert list(other.previews.glob("*/*")) == []


def test_an_earlier_export_is_replaced(index: Index, export: Path) -> None:
    before = data(export)
    drop_a_chunk(index)
    export_index(index, str(export))
    assert not before.exists()
    assert is_one_export(export)
    assert import_index(empty(index), str(export)).chunks == 7


def test_an_export_of_an_earlier_version_is_imported_and_replaced(index: Index, export: Path) -> None:
    of_the_first_format(export)
    other = empty(index)
    import_index(other, str(export))
    assert answers(other) == answers(index)
    export_index(index, str(export))
    assert is_one_export(export)


@pytest.mark.parametrize("there", ["notes.txt", "export.json", "text/mine.md", "visual"])
def test_what_is_no_earlier_export_is_left_alone(index: Index, tmp_path: Path, there: str) -> None:
    path = tmp_path / "out" / there
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"out(/export\.json: |.*name another directory)"):
        export_index(index, str(tmp_path / "out"))
    assert files(tmp_path / "out") == {there: b"{}"}
    with pytest.raises(UsageError, match="is a file; name a directory"):
        export_index(index, str(path))


@pytest.mark.parametrize("address", ["nowhere://x/y", "file://other-host/x"])
def test_an_address_of_no_use_is_named(index: Index, address: str) -> None:
    with pytest.raises(UsageError, match=address):
        export_index(index, address)


def test_no_index_no_export(index: Index, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no index at"):
        export_index(empty(index), str(tmp_path / "export"))
    assert not (tmp_path / "export").exists()
    assert not (tmp_path / "kb2").exists()


def test_nobody_writes_during_an_export(index: Index, tmp_path: Path) -> None:
    with index.write_lock(), pytest.raises(IndexLocked):
        export_index(index, str(tmp_path / "export"))


def test_an_index_with_documents_is_left_alone(index: Index, export: Path) -> None:
    before = answers(index)
    with pytest.raises(UsageError, match=r"kb holds 4 documents; import into a new --index"):
        import_index(index, str(export))
    assert answers(index) == before


def test_a_store_with_parts_of_another_index_is_left_alone(index: Index, export: Path) -> None:
    other = empty(index)
    other.lexical().upsert([chunk_part("theirs", "text")])
    with pytest.raises(UsageError, match="the lexical store holds 1 parts of another index"):
        import_index(other, str(export))
    assert other.lexical().count() == 1
    with pytest.raises(UsageError, match="no index at"):
        other.manifest()


def test_an_index_that_was_emptied_can_be_filled(index: Index, export: Path) -> None:
    other = memory_index(index.directory.parent / "emptied")
    other.with_metadata_types({"year": "str"})
    other.encoder, other.embedder = index.encoder, index.embedder
    import_index(other, str(export))
    assert answers(other) == answers(index)


def test_an_export_of_another_space_is_refused(index: Index, export: Path) -> None:
    other = empty(index)
    encoder = Encoder(ColourModel(scales=(2, 8)))
    other.encoder = lambda: encoder  # type: ignore[assignment]
    with pytest.raises(SpaceMismatch, match=r"scales: index \[2, 4\], config \[2, 8\]"):
        import_index(other, str(export))
    assert not other.directory.exists()


@pytest.mark.parametrize("broken", ["lexical", "text"])
def test_an_import_that_was_cut_short_is_no_index_and_can_be_run_again(
    index: Index, export: Path, broken: str
) -> None:
    other = empty(index)
    working = getattr(other, broken)

    class Failing(DownStore):
        def count(self) -> int:
            return 0

    setattr(other, broken, Failing)
    with pytest.raises(StoreUnavailable):
        import_index(other, str(export))
    assert other.visual().count() == 4
    for use in (other.manifest, other.create, lambda: index_status(other)):
        with pytest.raises(UsageError, match="has not ended; wait, or run it again"):
            use()
    setattr(other, broken, working)
    drop_a_chunk(index)
    export_index(index, str(export))  # what the first one left and this one lacks must go
    import_index(other, str(export))
    assert answers(other) == answers(index)
    assert other.create() == index.manifest()
