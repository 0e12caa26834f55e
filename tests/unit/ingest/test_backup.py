"""Export and import of an index: the same answers, whole or refused, and nothing believed."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ColourModel, DownStore, chunk_part, image_part, memory_index, picture
from small_index import answers, fill, ledger_row

from pipelines.core.encoder import Encoder
from pipelines.core.errors import (
    BadExport,
    IndexLocked,
    SpaceMismatch,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from pipelines.core.index import Index, IndexConfig
from pipelines.core.readings import Reading, save_reading
from pipelines.core.types import Line, store_key
from pipelines.ingest import archive
from pipelines.ingest.backup import export_index, import_index
from pipelines.ingest.hashing import document_digest
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import make_plan
from pipelines.ingest.sources import Item, Listing, SourceConfig, list_items
from pipelines.ingest.status import index_status


@pytest.fixture
def index(tmp_path: Path) -> Index:
    index = memory_index(tmp_path / "kb")
    fill(index)
    return index


@pytest.fixture
def export(index: Index, tmp_path: Path) -> Path:
    export_index(index, str(tmp_path / "export"))
    return tmp_path / "export"


def empty(index: Index, name: str = "kb2") -> Index:
    """Another index, not yet made, of the same models."""
    other = memory_index(index.directory.parent / name, create=False)
    other.encoder, other.embedder = index.encoder, index.embedder
    return other


def data(export: Path) -> Path:
    """Where the shards of an export are."""
    folder: str = json.loads((export / "export.json").read_text())["folder"]
    return export / folder


def drop_a_chunk(index: Index) -> None:
    """Of the rose, as an ingest of a changed document does."""
    for store in (index.text(), index.lexical()):
        store.delete([chunk_part("rose", "").key])
    rose = pa.Table.from_pylist([ledger_row("rose", chunks=1)], schema=SCHEMA)
    Ledger.load(index.directory).changed(rose)


def rows(index: Index) -> list[dict[str, Any]]:
    return [row for table in Ledger.load(index.directory).tables() for row in table.to_pylist()]


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# There and back.


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


# Where an export may go.


def test_an_earlier_export_is_replaced(index: Index, export: Path) -> None:
    before = data(export)
    drop_a_chunk(index)
    export_index(index, str(export))
    assert not before.exists()
    assert is_one_export(export)
    assert import_index(empty(index), str(export)).chunks == 7


def is_one_export(directory: Path) -> bool:
    """Nothing is there but the files of one."""
    shards = (f"{data(directory).name}/{name}/000000.parquet" for name in SHARDS)
    return sorted(files(directory)) == [*shards, "export.json"] and len(list(directory.iterdir())) == 2


SHARDS = ("ledger", "previews", "text", "visual")


def of_the_first_format(export: Path) -> None:
    """As earlier versions wrote it."""
    for name in SHARDS:
        (data(export) / name).rename(export / name)
    data(export).rmdir()
    body = json.loads((export / "export.json").read_text())
    del body["folder"]
    (export / "export.json").write_text(json.dumps(body | {"format": 1}))


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


# Exports that are cut short.


@contextmanager
def cut_at(owner: object, name: str, call: int = 1) -> Iterator[None]:
    """Whoever calls a method for the n-th time meanwhile is killed there."""
    calls, original = itertools.count(1), getattr(owner, name)

    def killed(*args: Any) -> Any:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            yield


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


# Stores that are not what the ledger says.


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


# Where an import may go.


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


# What somebody may have made of it.


def reshaped(name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Change the first row of a data set."""

    def apply(export: Path) -> None:
        path = data(export) / name / "000000.parquet"
        table = pq.read_table(path)
        first, *others = table.to_pylist()
        pq.write_table(pa.Table.from_pylist([first | change(first), *others], schema=table.schema), path)

    return apply


def without(file: str) -> Callable[[Path], None]:
    return lambda export: (data(export) / file).unlink()


def cut(file: str) -> Callable[[Path], None]:
    return lambda export: (data(export) / file).write_bytes((data(export) / file).read_bytes()[:-100])


def bit(export: Path) -> None:
    """The last one of the vectors' page."""
    path = data(export) / "visual" / "000000.parquet"
    body = bytearray(path.read_bytes())
    vectors = pq.read_metadata(path).row_group(0).column(9)
    body[vectors.data_page_offset + vectors.total_compressed_size - 1] ^= 1
    path.write_bytes(body)


def column_less(export: Path) -> None:
    path = data(export) / "text" / "000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["content"]), path)


def link(export: Path) -> None:
    (data(export) / "text" / "000000.parquet").unlink()
    (data(export) / "text" / "000000.parquet").symlink_to("/dev/zero")


HOSTILE = {
    "a shard is gone": (without("text/000000.parquet"), r"text/000000\.parquet: does not exist"),
    "a shard is cut": (cut("visual/000000.parquet"), r"visual/000000\.parquet: is damaged or cut short"),
    "a bit is turned": (bit, r"visual/000000\.parquet: is damaged .*(checksum|CRC)"),
    "a device": (link, r"text/000000\.parquet: "),
    "another column": (column_less, r"text/000000\.parquet: .*other columns than id: string"),
    "NaN": (
        reshaped("visual", lambda row: {"vector": [float("nan")] * 6}),
        r"visual/000000\.parquet: .*NaN",
    ),
    "a null": (reshaped("text", lambda row: {"text": None}), r"a null in column text"),
    "a null in a list": (reshaped("text", lambda row: {"image_ids": [None]}), r"a null in column image_ids"),
    "a null in a vector": (reshaped("text", lambda row: {"vector": [None] * 64}), r"a null in column vector"),
    "a long text": (reshaped("text", lambda row: {"text": "x" * 70_000}), r"70,000 bytes in column text"),
    "a chunk among pictures": (reshaped("visual", lambda row: {"kind": "chunk"}), r"'chunk' among images"),
    "a path for a content": (
        reshaped("visual", lambda row: {"content": "../../etc/x"}),
        r"'rose#img-0': its content is no SHA-256",
    ),
    "a path for a preview": (
        reshaped("previews", lambda row: {"content": "../../../evil"}),
        r"previews/000000\.parquet: .*'\.\./\.\./\.\./evil', which is no SHA-256",
    ),
    "a preview that is none": (reshaped("previews", lambda row: {"jpeg": b"<svg/>"}), r"no JPEG"),
    "metadata of no JSON": (reshaped("text", lambda row: {"metadata": "{"}), r"text/000000\.parquet: "),
    "metadata that never ends": (reshaped("text", lambda row: {"metadata": "[" * 60_000}), r"text/000000"),
    "metadata of a list": (reshaped("text", lambda row: {"metadata": "[]"}), r"metadata is no object"),
    "metadata in metadata": (reshaped("text", lambda row: {"metadata": '{"品牌": {}}'}), r"'品牌' is a dict"),
    "metadata of another type": (
        reshaped("text", lambda row: {"metadata": '{"year": "old"}'}),
        r"year is a str here",
    ),
    "unknown metadata": (reshaped("text", lambda row: {"metadata": '{"x": 1}'}), r"'x' has no type"),
    "a part twice": (
        reshaped("visual", lambda row: {"id": "leaf#img-0", "tenant": "acme"}),
        r"the visual store holds 3 parts after 4 were imported",
    ),
    "another's ledger key": (
        reshaped("ledger", lambda row: {"document_id": "leaf"}),
        r"ledger/000000\.parquet: .*'leaf' stands under another's key",
    ),
    "a document twice": (
        reshaped(
            "ledger",
            lambda row: {"document_key": store_key("acme", "leaf"), "document_id": "leaf", "tenant": "acme"},
        ),
        r"1 documents stand twice",
    ),
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"content": "../../../evil"}, r"'\.\./\.\./\.\./evil', which is no SHA-256"),
        ({"reading": "[" * 60_000}, r"readings/000000\.parquet: "),
        ({"reading": '{"reader": "r", "lines": [["x", ["a", 1, 2, 3], 1]]}'}, r"readings/000000\.parquet: "),
    ],
)
def test_a_hostile_reading_is_one_clear_line(
    index: Index, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    [preview, *_] = index.previews.glob("*/*.jpg")
    save_reading(index.readings, preview.stem, Reading("r", ()))
    export_index(index, str(tmp_path / "export"))
    reshaped("readings", lambda row: change)(tmp_path / "export")
    with pytest.raises(BadExport, match=complaint) as caught:
        import_index(empty(index), str(tmp_path / "export"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_damaged_or_hostile_export_is_one_clear_line_and_no_index(
    index: Index, export: Path, what: str
) -> None:
    spoil, complaint = HOSTILE[what]
    spoil(export)
    other = empty(index)
    with pytest.raises(BadExport, match=complaint) as caught:
        import_index(other, str(export))
    assert "\n" not in str(caught.value)
    assert str(export) in str(caught.value) or "store holds" in str(caught.value)
    with pytest.raises(UsageError, match="has not ended"):
        other.manifest()
    assert not list(export.parent.rglob("evil*"))


WHOLE = {"visual": [4], "text": [8], "ledger": [4], "previews": [3], "readings": []}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 3}, r"export\.json: format: .*reads formats 1 to 2"),
        ({"folder": "../elsewhere"}, r"export\.json: folder"),
        ({"folder": "data-" + "0" * 32 + "/.."}, r"export\.json: folder"),
        ({"shards": {"visual": [4], "text": [8], "ledger": [4]}}, r"shards\.previews"),
        ({"shards": WHOLE | {"visual": [-4]}}, r"shards\.visual"),
        ({"metadata_types": {"year": "date"}}, r"metadata_types\.year"),
        ({"more": 1}, r"export\.json: more"),
        ({"text_space": {}}, "text space differs"),
    ],
)
def test_a_changed_manifest_is_refused_before_anything_is_written(
    index: Index, export: Path, change: dict[str, Any], complaint: str
) -> None:
    path = export / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    other = empty(index)
    with pytest.raises(UsageError, match=complaint):
        import_index(other, str(export))
    assert not other.directory.exists()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b" " * (2**20 + 1)])
def test_a_manifest_that_is_none_is_named(index: Index, export: Path, body: bytes) -> None:
    (export / "export.json").write_bytes(body)
    with pytest.raises(UsageError, match=r"export\.json"):
        import_index(empty(index), str(export))


def test_shards_of_another_number_of_rows_are_refused(index: Index, export: Path) -> None:
    path = export / "export.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps(body | {"shards": body["shards"] | {"text": [9]}}))
    with pytest.raises(BadExport, match=r"text/000000\.parquet: .*8 rows, but export\.json says 9"):
        import_index(empty(index), str(export))
