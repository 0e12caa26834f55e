"""Parquet with pictures inside: which rows become documents, what a picture is, and hostile files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.errors import BadPart, SourceError
from pipelines.ingest.hashing import hash_file
from pipelines.ingest.sources import (
    Item,
    Rejected,
    SourceConfig,
    files,
    list_items,
    parquet,
    parse,
    read_bytes,
)

CONFIG = SourceConfig()
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(data: bytes | None, path: str | None = None) -> dict[str, object]:
    return {"bytes": data, "path": path}


def pictures(*values: object) -> pa.Array:
    return pa.array(values, PICTURE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder / "m.parquet"


def read(path: Path, config: SourceConfig = CONFIG) -> tuple[list[Item], list[Rejected]]:
    found = list(list_items([str(path)], config))
    return [f for f in found if isinstance(f, Item)], [f for f in found if isinstance(f, Rejected)]


def shown(item: Item) -> list[bytes]:
    return [read_bytes(address, 1000) for address in parse(item, CONFIG).document.images]


def test_a_rows_picture_is_read_from_its_row(path: Path) -> None:
    table = {"id": ["a", "b", "c"], "image": pictures(picture(b"A", "a.png"), None, picture(b"C"))}
    pq.write_table(pa.table(table | {"text": ["one", "two", None], "label": [1, 2, 3]}), path)
    items, rejected = read(path)
    assert not rejected
    documents = [parse(item, CONFIG).document for item in items]
    assert [document.id for document in documents] == ["a", "b", "c"]
    assert [shown(item) for item in items] == [[b"A"], [], [b"C"]]
    assert [passage.images for passage in documents[0].passages] == [(0,)]
    assert dict(documents[0].metadata) == {"label": 1}
    assert documents[0].images == (f"{path}#cell=1+0",) == items[0].inputs


def test_a_list_of_pictures_keeps_its_order(path: Path) -> None:
    values = [[picture(b"A"), None, picture(b"B")], None, [], [picture(b"C")]]
    table = {"id": ["a", "b", "c", "d"], "images": pa.array(values, pa.list_(PICTURE)), "text": ["t"] * 4}
    pq.write_table(pa.table(table), path)
    assert [shown(item) for item in read(path)[0]] == [[b"A", b"B"], [], [], [b"C"]]


@pytest.mark.parametrize("kind", [pa.list_(PICTURE), pa.large_list(PICTURE), pa.list_(PICTURE, 2)])
def test_any_kind_of_list_holds_pictures(path: Path, kind: pa.DataType) -> None:
    values = pa.array([[picture(b"A"), picture(b"B")], [picture(b"C"), picture(b"D")]], kind)
    pq.write_table(pa.table({"id": ["a", "b"], "images": values}), path)
    assert [shown(item) for item in read(path)[0]] == [[b"A", b"B"], [b"C", b"D"]]


def test_a_map_whose_names_are_no_texts_costs_its_row(path: Path) -> None:
    kind = pa.map_(pa.int32(), pa.string())
    held = pa.array([[(1, "one")], None], kind)
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["t", "t"], "metadata": held}), path)
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == ["b"]
    assert rejected.reason == "m.parquet:1: field 'metadata' has a name that is a number; it must be a text"


def test_a_row_without_id_is_named_by_its_file_and_number(path: Path) -> None:
    pq.write_table(pa.table({"image": pictures(picture(b"A", "same.png"), picture(b"B", "same.png"))}), path)
    assert [item.document_id for item in read(path)[0]] == ["shop/m.parquet:1", "shop/m.parquet:2"]


def test_a_row_with_an_id_needs_no_name_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a\x07b"
    folder.mkdir()
    pq.write_table(pa.table({"id": ["a"], "image": pictures(picture(b"A"))}), folder / "m.parquet")
    assert [item.document_id for item in read(folder / "m.parquet")[0]] == ["a"]


def test_rows_are_found_in_their_row_group_in_any_order(path: Path) -> None:
    data = [str(n).encode() for n in range(100)]
    pq.write_table(pa.table({"image": pictures(*map(picture, data))}), path, row_group_size=40)
    addresses = [item.inputs[0] for item in read(path)[0]]
    assert [read_bytes(address, 10) for address in addresses] == data
    assert [read_bytes(addresses[n], 10) for n in (99, 0, 41, 40, 79, 3)] == [
        data[n] for n in (99, 0, 41, 40, 79, 3)
    ]


def test_llavas_conversations_may_stand_in_a_column(path: Path) -> None:
    said = [[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A pump."}]]
    pq.write_table(
        pa.table({"id": ["a"], "image": pictures(picture(b"A")), "conversations": pa.array(said)}), path
    )
    [item], _ = read(path)
    assert [passage.text for passage in parse(item, CONFIG).document.passages] == ["What?", "A pump."]


def test_another_picture_is_another_hash_and_the_file_that_was_written_anew_is_read(path: Path) -> None:
    hashes = []
    for data in (b"A", b"BB"):
        pq.write_table(pa.table({"id": ["a"], "image": pictures(picture(data))}), path)
        hashes.append(hash_file(read(path)[0][0].inputs[0]))
    assert len(set(hashes)) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [(None, "has no bytes"), (b"", "has no bytes"), (b"x" * 11, "has 11 bytes, more than the 10")],
)
def test_a_picture_without_bytes_or_with_too_many_is_refused_alone(
    path: Path, data: bytes | None, reason: str
) -> None:
    table = {"id": ["a", "b"], "image": pictures(picture(data, "a.png"), picture(b"B")), "text": ["t", "u"]}
    pq.write_table(pa.table(table), path)
    bad, good = (item.inputs[0] for item in read(path)[0])
    with pytest.raises(BadPart, match=f"m.parquet: row 1 {reason}"):
        read_bytes(bad, 10)
    assert read_bytes(good, 10) == b"B"


def test_a_row_that_is_gone_is_refused(path: Path) -> None:
    pq.write_table(pa.table({"image": pictures(picture(b"A"))}), path)
    for address in (f"{path}#cell=2+0", f"{path}#cell=0+0", f"{path}#cell=1+7"):
        with pytest.raises(BadPart, match=r"m\.parquet: row"):
            read_bytes(address, 10)
    with pytest.raises(BadPart, match="does not exist"):
        read_bytes(f"{path}.gone#cell=1+0", 10)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"image": pa.array([b"A"])}, "holds pictures themselves"),
        ({"image": pa.array([{"data": b"A"}])}, "holds pictures themselves"),
        ({"image": pictures(None), "images": pa.array([[]], pa.list_(PICTURE))}, "both hold pictures"),
        ({str(n): pa.array([n]) for n in range(1001)} | {"id": pa.array([1])}, "has 1,002 columns"),
    ],
)
def test_a_table_of_another_form_is_an_error(path: Path, columns: dict[str, pa.Array], reason: str) -> None:
    pq.write_table(pa.table(columns), path)
    with pytest.raises(SourceError, match=reason):
        read(path)


def test_a_damaged_row_group_costs_itself(path: Path) -> None:
    table = pa.table({"id": [f"id-{n}" for n in range(30)], "text": [f"text {n}" for n in range(30)]})
    pq.write_table(table, path, row_group_size=10, compression="none", use_dictionary=False)
    column = pq.read_metadata(path).row_group(1).column(1)
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(raw)
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == [f"id-{n}" for n in (*range(10), *range(20, 30))]
    assert rejected.source == f"{path}:11"
    assert "rest of its row group cannot be read" in rejected.reason


def test_damaged_pictures_leave_what_is_said_of_them(path: Path) -> None:
    data = [bytes([n]) * 50 for n in range(20)]
    table = pa.table({"id": [str(n) for n in range(20)], "image": pictures(*map(picture, data))})
    pq.write_table(table, path, row_group_size=10, compression="none", use_dictionary=False)
    column = pq.read_metadata(path).row_group(0).column(1)
    assert column.path_in_schema == "image.bytes"
    raw = bytearray(path.read_bytes())
    raw[column.data_page_offset : column.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(raw)
    items, rejected = read(path)
    assert (len(items), rejected) == (20, [])
    with pytest.raises(BadPart, match="row 1 cannot be read"):
        read_bytes(items[0].inputs[0], 100)
    assert read_bytes(items[15].inputs[0], 100) == data[15]


def test_what_a_damaged_row_group_lost_is_remembered_and_not_read_again(path: Path) -> None:
    data = [bytes([n]) * 5000 for n in range(100)]
    table = pa.table({"image": pictures(*map(picture, data))})
    pq.write_table(table, path, compression="none", row_group_size=50)
    addresses = [item.inputs[0] for item in read(path)[0]]
    raw = bytearray(path.read_bytes())
    raw[4:60] = b"\xff" * 56
    path.write_bytes(raw)
    held = parquet._pictures(str(path), parquet._state(str(path)))
    for address in addresses[:50]:
        with pytest.raises(BadPart, match=r"m\.parquet: row \d+ cannot be read"):
            read_bytes(address, 10_000)
    assert list(held._lost) == [range(50)]
    assert read_bytes(addresses[50], 10_000) == data[50]


def test_one_text_said_a_thousand_times_is_cut_short(path: Path) -> None:
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 1000), pa.array(["x" * 2**20]))
    table = pa.table({"id": [str(n) for n in range(1000)], "text": texts})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False)
    assert path.stat().st_size < 20_000
    items, rejected = read(path, SourceConfig(max_row_bytes=2**21))
    assert len(items) == 63  # 64 MiB
    assert "and all after it: they inflate to more than 50 times the file" in rejected[-1].reason


def test_a_page_that_inflates_a_thousandfold_is_not_read(path: Path) -> None:
    held = pictures(picture(b"A"), picture(bytes(100 * 2**20)))
    bomb = pa.table({"id": ["a", "b"], "image": held})
    pq.write_table(bomb, path, compression="zstd", use_dictionary=False, row_group_size=1)
    assert path.stat().st_size < 100_000
    items, _ = read(path)
    with pytest.raises(BadPart, match=r"it inflates to 104,\d+,\d+ bytes"):
        read_bytes(f"{path}#cell=2+0", 2**30)
    assert read_bytes(items[0].inputs[0], 10) == b"A"
    texts = pa.table({"id": ["a", "b"], "text": ["t", "x" * (100 * 2**20)]})
    pq.write_table(texts, path, compression="zstd", use_dictionary=False, row_group_size=1)
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == ["a"]
    assert "m.parquet:2: and the rest of its row group: it inflates to" in rejected.reason


def test_a_million_rows_of_nothing_are_one_rejection(path: Path) -> None:
    pq.write_table(pa.table({"id": pa.nulls(10_000_000, pa.string())}), path, row_group_size=10_000_000)
    assert path.stat().st_size < 100_000
    assert "claims 10,000,000 rows" in read(path)[1][0].reason
    assert len(read(path)[1]) == 1


@pytest.mark.parametrize("column", ["tags", "images", "conversations", "metadata"])
def test_a_list_of_a_million_nulls_is_not_read(
    path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    monkeypatch.setattr(parquet, "_FREE_VALUES", 100_000)
    kind = pa.map_(pa.string(), pa.null()) if column == "metadata" else pa.list_(pa.null())
    entry = ("a", None) if column == "metadata" else None
    small, large = pa.array([[entry], [entry]], kind), pa.array([[entry] * 1_000_000], kind)
    with pq.ParquetWriter(path, pa.schema([("id", pa.string()), (column, kind)])) as writer:
        writer.write_table(pa.table({"id": ["a", "b"], column: small}, writer.schema))
        writer.write_table(pa.table({"id": ["c"], column: large}, writer.schema))
    assert path.stat().st_size < 10_000
    table = parquet.read_parquet(str(path), CONFIG)
    *good, bad = table
    assert [cells.line for cells in good] == [1, 2]
    assert "its lists claim 1,000,000 values in a file of" in bad.reason


def test_a_row_whose_lists_are_too_long_is_rejected_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_MAX_VALUES", 6)
    said = [[{"from": "human", "value": word} for word in words] for words in (["a"], ["b"] * 7, ["c"] * 6)]
    told = pa.array([[("a", "1")], [], []], pa.map_(pa.string(), pa.string()))
    table = {"id": ["a", "b", "c"], "image": pictures(picture(b"A"), None, None), "conversations": said}
    pq.write_table(pa.table(table | {"metadata": told}), path)
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == ["a", "c"]
    assert dict(parse(items[0], CONFIG).document.metadata) == {"a": "1"}
    assert rejected.reason == "m.parquet:2: has more than 6 values in lists"


def test_a_footer_over_which_pyarrow_ends_its_process_costs_the_file_alone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"id": ["a"], "text": ["t"], "tags": [["x"]]}), path)
    dying = tmp_path / "dying.py"
    dying.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(parquet.parquet_child, "__file__", str(dying))
    with pytest.raises(SourceError, match="what its footer says of lists is broken"):
        read(path)


def test_an_object_that_was_written_anew_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    address, config = "mock://anew/m.parquet", SourceConfig(allowed_addresses=("mock://anew",))
    filesystem, inside_it = files.open_filesystem(address)
    filesystem.create_dir(files.parent(inside_it), recursive=True)
    clock = [100.0]
    monkeypatch.setattr(parquet.time, "monotonic", lambda: clock[0])
    read_anew = []
    for data, passed_s in ((b"one", 20.0), (b"two", 20.0), (b"three", 0.0)):
        table = pa.table({"id": ["a"], "image": pictures(picture(data))})
        with filesystem.open_output_stream(inside_it) as out:
            pq.write_table(table, out)
        clock[0] += passed_s  # in a worker; or this process lists the object again, and it may be at once
        if not passed_s:
            list(list_items([address], config))
        read_anew.append(read_bytes(f"{address}#cell=1+0", 10))
    assert read_anew == [b"one", b"two", b"three"]


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
def test_a_row_of_too_many_pictures_is_rejected(
    path: Path, kind: Callable[[pa.DataType], pa.DataType]
) -> None:
    values = [[picture(b"A")] * 1001, [picture(b"B")]]
    pq.write_table(pa.table({"id": ["a", "b"], "images": pa.array(values, kind(PICTURE))}), path)
    [item], [rejected] = read(path)
    assert item.document_id == "b"
    assert "m.parquet:1: has more than 1,000 pictures" in rejected.reason


@pytest.mark.parametrize("value", [0, 0x15])
def test_a_damaged_footer_loses_no_row_unsaid(path: Path, value: int) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["t", "u", "v"]}), path, store_schema=False)
    whole = path.read_bytes()
    footer = len(whole) - 8 - pq.read_metadata(path).serialized_size
    for at in range(footer, len(whole) - 8):
        path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        try:
            items, rejected = read(path)
        except SourceError:
            continue
        assert rejected or len(items) == 3, f"byte {at}"


def test_a_mutated_file_is_refused_or_read_but_never_raises(path: Path) -> None:
    table = {"id": [str(n) for n in range(50)], "text": [f"word {n}" for n in range(50)]}
    held = pictures(*(picture(bytes([n]) * 40, "x") for n in range(50)))
    pq.write_table(pa.table(table | {"image": held}), path, row_group_size=20, compression="zstd")
    whole, dice = path.read_bytes(), random.Random(3)
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(dice.randrange(1, 6)):
            raw[dice.randrange(4, len(raw) - 8)] = dice.randrange(256)
        path.write_bytes(raw)
        try:
            items, rejected = read(path)
            assert rejected or len(items) == 50  # none is lost unsaid
            for address in (address for item in items for address in item.inputs):
                read_bytes(address, 1000)
        except (SourceError, BadPart):
            continue
