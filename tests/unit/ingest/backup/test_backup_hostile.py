"""What somebody may have made of an export: whole or refused, and nothing believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from exported import data, empty

from pipelines.core.errors import (
    BadExport,
    UsageError,
)
from pipelines.core.index import Index
from pipelines.core.readings import Reading, save_reading
from pipelines.core.types import store_key
from pipelines.ingest.backup import export_index, import_index


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
        ({"format": 4}, r"export\.json: format: .*reads formats 1 to 3"),
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
