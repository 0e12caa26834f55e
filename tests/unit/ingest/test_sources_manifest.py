"""Manifests as sources: what a row must say, and how broken rows are told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.errors import BadPart, SourceError
from pipelines.core.types import Document, Scalar
from pipelines.ingest.sources import Item, Rejected, SourceConfig, list_items, manifest, parse
from pipelines.ingest.sources.text import decode

CONFIG = SourceConfig()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"picture")
    return folder


def write_lines(folder: Path, *rows: object) -> Path:
    path = folder / "m.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def read(path: Path, config: SourceConfig = CONFIG) -> tuple[list[Item], list[Rejected]]:
    found = list(list_items([str(path)], config))
    return [f for f in found if isinstance(f, Item)], [f for f in found if isinstance(f, Rejected)]


def only_document(path: Path, config: SourceConfig = CONFIG) -> Document:
    [item], rejected = read(path, config)
    assert not rejected
    return parse(item, config).document


def test_a_row_becomes_a_document(folder: Path) -> None:
    row = {
        "id": 7,
        "images": ["a.png", "b.png"],
        "text": "One.\n\nTwo.",
        "caption": "Cooler",
        "source": "p. 3",
    }
    document = only_document(
        write_lines(folder, row | {"tenant": "t", "year": 2020, "metadata": {"ok": True}})
    )
    assert document.id == "7"
    assert document.images == (str(folder / "a.png"), str(folder / "b.png"))
    assert [p.text for p in document.passages] == ["Cooler", "One.", "Two."]
    assert {p.images for p in document.passages} == {(0, 1)}
    assert document.captions == ("Cooler", "Cooler")
    assert document.source == "p. 3"
    assert document.tenant == "t"
    assert dict(document.metadata) == {"year": 2020, "ok": True}


def test_a_rows_pictures_are_its_inputs(folder: Path) -> None:
    [item], _ = read(write_lines(folder, {"id": "x", "image": "a.png", "images": ["b.png"]}))
    assert item.inputs == (str(folder / "a.png"), str(folder / "b.png"))


def test_a_row_without_id_is_named_by_its_picture_as_a_folder_would(folder: Path) -> None:
    path = write_lines(folder, {"image": "a.png"}, {"image": "./b.png"})
    assert [item.document_id for item in read(path)[0]] == ["shop/a.png", "shop/b.png"]
    assert [i.document_id for i in list_items([str(folder)], CONFIG) if isinstance(i, Item)] == [
        "shop/a.png",
        "shop/b.png",
    ]


def test_the_corpus_of_a_beir_folder_is_read_by_its_own_names(folder: Path) -> None:
    scidocs = {"authors": ["17"], "year": 2009, "references": {}}
    path = write_lines(
        folder,
        {"_id": "<dbpedia:Rose>", "title": "Rose", "text": "A flower.\n\nIt is red.", "metadata": scidocs},
        {"_id": "2", "title": "", "text": "Without a title", "metadata": {}},
        {"_id": "3", "title": "Only a title", "text": ""},
        {"_id": "4", "title": "", "text": ""},
    )
    items, [empty] = read(path)
    documents = [parse(item, CONFIG).document for item in items]
    assert {one.id: [passage.text for passage in one.passages] for one in documents} == {
        "<dbpedia:Rose>": ["Rose A flower.", "It is red."],
        "2": ["Without a title"],
        "3": ["Only a title"],
    }
    assert [dict(one.metadata) for one in documents] == [{"year": 2009}, {}, {}]
    assert "m.jsonl:4: has neither" in empty.reason


def test_a_candidate_pool_of_mbeir_is_read_by_its_own_names(folder: Path) -> None:
    pool = [
        {"did": "1:1", "txt": None, "img_path": "a.png", "modality": "image", "src_content": None},
        {"did": "1:2", "txt": "A rose", "img_path": "", "modality": "text", "src_content": "{}"},
        {"did": "2:1", "txt": "A rose", "img_path": "b.png", "modality": "image,text"},
    ]
    items, rejected = read(write_lines(folder, *pool))
    assert not rejected
    documents = [parse(item, CONFIG).document for item in items]
    assert [(one.id, one.images, [passage.text for passage in one.passages]) for one in documents] == [
        ("1:1", (str(folder / "a.png"),), []),
        ("1:2", (), ["A rose"]),
        ("2:1", (str(folder / "b.png"),), ["A rose"]),
    ]
    assert dict(documents[1].metadata) == {"modality": "text", "src_content": "{}"}


def test_names_of_benchmarks_mean_something_else_in_a_row_of_ours(folder: Path) -> None:
    row = {"id": "x", "text": "t", "title": "T", "txt": "u", "img_path": "v"}
    assert dict(only_document(write_lines(folder, row)).metadata) == {
        "title": "T",
        "txt": "u",
        "img_path": "v",
    }


def test_a_field_by_both_names_must_be_the_same(folder: Path) -> None:
    items, [bad] = read(
        write_lines(
            folder,
            {"did": "1:8", "txt": "t", "text": "t"},
            {"did": "1:9", "txt": "t", "text": "other"},
        )
    )
    assert [item.document_id for item in items] == ["1:8"]
    assert "fields 'txt' and 'text' differ" in bad.reason


def test_a_row_with_an_id_of_ours_keeps_others_as_metadata(folder: Path) -> None:
    """As MongoDB and Elasticsearch export rows."""
    document = only_document(
        write_lines(folder, {"_id": "5", "did": 6, "id": "a", "text": "t", "title": "T"})
    )
    assert (document.id, dict(document.metadata)) == ("a", {"_id": "5", "did": 6, "title": "T"})


def test_tables_may_have_a_benchmarks_columns(folder: Path) -> None:
    (folder / "m.csv").write_text("_id,title,text,year\n007,1984,A novel,1949\n1.0,,t,\n")
    documents = [parse(item, CONFIG).document for item in read(folder / "m.csv")[0]]
    assert [(one.id, one.passages[0].text, dict(one.metadata)) for one in documents] == [
        ("007", "1984 A novel", {"year": 1949}),
        ("1.0", "t", {}),
    ]
    pq.write_table(pa.table({"did": ["1:1"], "img_path": ["a.png"]}), folder / "m.parquet")
    assert only_document(folder / "m.parquet").images == (str(folder / "a.png"),)


def test_moving_a_row_to_another_line_leaves_it_as_it_was(folder: Path) -> None:
    rows = [{"id": "a", "image": "a.png"}, {"id": "b", "image": "b.png"}]
    before = read(write_lines(folder, *rows))[0]
    assert read(write_lines(folder, *reversed(rows)))[0] == before[::-1]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "x"}, "has neither 'image' (or 'images') nor 'text'"),
        ({"text": "t"}, "has no 'id' and no 'image'"),
        ({"id": True, "text": "t"}, "field 'id' is true or false"),
        ({"id": "x" * 2000, "text": "t"}, "more than 1024 bytes"),
        ({"id": "x", "image": 3}, "field 'image' is a number"),
        ({"id": "x", "images": [["a.png"]]}, "field 'images' holds a list"),
        ({"id": "x", "text": ["t"]}, "field 'text' is a list"),
        ({"id": "x", "text": "t", "metadata": "m"}, "field 'metadata' is a text; it must be an object"),
        ({"id": "x", "text": "t", "price": {"eur": 3}}, "metadata field 'price' is an object"),
        ({"id": "x", "text": "t", "big": 2**63}, "metadata field 'big' is a number beyond 64 bits"),
        ('{"id": "x", "text": "t", "n": NaN}', "JSON holds NaN"),
        ('{"id": "x", "text": "t", "n": 1e999}', "metadata field 'n' is inf"),
        ('{"id": "x\\ud800", "text": "t"}', "broken characters"),
        ('{"id": "x", "image": "\\ud800.png"}', "broken characters"),
        ('{"id": "x", ', "broken JSON"),
        ("[]", "JSON is a list, not an object"),
        ('{"id": ' + "9" * 5000 + "}", "broken JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_row_is_rejected_with_its_line_and_the_next_is_read(
    folder: Path, row: object, reason: str
) -> None:
    path = write_lines(folder, {"id": "first", "text": "t"}, row, {"id": "last", "text": "t"})
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == ["first", "last"]
    assert rejected.source == f"{path}:2"
    assert rejected.reason.startswith("m.jsonl:2: ")
    assert reason in rejected.reason
    (rejected.document_id + rejected.reason).encode()


def test_a_line_that_is_not_utf8_is_rejected_alone(folder: Path) -> None:
    path = folder / "m.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"id": "1", "text": "t"}\n\n{"id": "2", "text": "\xff"}\n{"id": "3", "text": "t"}\n'
    )
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == ["1", "3"]
    assert rejected.source.endswith(":3")


def test_a_line_beyond_the_bound_is_rejected_alone(folder: Path) -> None:
    long = {"id": "long", "text": "x" * 5000}
    path = write_lines(folder, {"id": "1", "text": "t"}, long, {"id": "3", "text": "t"})
    items, [rejected] = read(path, SourceConfig(max_row_bytes=1000))
    assert [item.document_id for item in items] == ["1", "3"]
    assert "m.jsonl:2: is longer than the 1,000 bytes" in rejected.reason


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../outside.png", "leaves"),
        ("/etc/hostname", "leaves"),
        ("link.png", "leaves"),
        ("missing.png", "does not exist"),
        ("sub.png", "is a folder"),
        ("empty.png", "is empty"),
        ("https://example.org/x.png", "is a network address"),
        ("s3://bucket/x.png", "allowed_addresses"),
        ("a\0.png", "NUL"),
        ("file:///tmp/a%00b.png", "NUL"),
        ("x" * 300 + ".png", "cannot be read"),
    ],
)
def test_a_bad_picture_is_rejected_and_its_row_stays(folder: Path, image: str, reason: str) -> None:
    (folder.parent / "outside.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(folder.parent / "outside.png")
    (folder / "sub.png").mkdir()
    (folder / "empty.png").touch()
    [item], _ = read(write_lines(folder, {"id": "x", "images": [image, "b.png"]}))
    assert item.inputs == (str(folder / "b.png"),)
    parsed = parse(item, CONFIG)
    assert parsed.document.images == (str(folder / "b.png"),)
    assert reason in parsed.rejected[0].reason
    [alone], _ = read(write_lines(folder, {"id": "x", "image": image}))
    with pytest.raises(BadPart, match=reason):
        parse(alone, CONFIG)


def test_pictures_in_an_allowed_root_or_bucket_are_read(folder: Path) -> None:
    (folder.parent / "outside.png").write_bytes(b"x")
    config = SourceConfig(allowed_roots=(str(folder.parent),), allowed_addresses=("s3://bucket/in",))
    path = write_lines(folder, {"id": "x", "images": ["../outside.png", "s3://bucket/in/x.png"]})
    assert only_document(path, config).images == (str(folder.parent / "outside.png"), "s3://bucket/in/x.png")
    [item], _ = read(
        write_lines(folder, {"id": "x", "images": ["s3://bucket/inner/x.png", "s3://bucket/in/../x.png"]}),
        config,
    )
    with pytest.raises(BadPart):
        parse(item, config)


def test_a_row_of_text_alone_keeps_the_manifest_as_its_source(folder: Path) -> None:
    path = write_lines(folder, {"id": "x", "text": "t"})
    assert only_document(path).source == str(path)


def test_csv_columns_are_typed_as_a_whole(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text(
        "id,image,text,year,price,code,flag,note,metadata\n"
        '1,a.png,"Hello, ""you""\nthere",2020,1,007,true,,"{""k"": 1}"\n'
        "2,b.png,,1999,2.5,12,FALSE,x,\n",
        encoding="utf-8-sig",
    )
    first, second = (parse(item, CONFIG).document for item in read(path)[0])
    assert first.passages[0].text == 'Hello, "you" there'
    assert dict(first.metadata) == {"year": 2020, "price": 1.0, "code": "007", "flag": True, "k": 1}
    assert dict(second.metadata) == {"year": 1999, "price": 2.5, "code": "12", "flag": False, "note": "x"}


def test_csv_columns_keep_the_types_that_the_index_has_fixed(folder: Path) -> None:
    """One cell that is no number makes no texts of the others, and a column of numbers stays a text."""
    path = folder / "m.csv"
    path.write_text("id,text,year,code,good,new\n1,t,2010,12,true,1\n2,t,n/a,007,2,2\n3,t,,1.50,FALSE,x\n")
    types = {"year": "number", "code": "str", "good": "bool", "elsewhere": "number"}
    items = [item for item in list_items([str(path)], CONFIG, types=types) if isinstance(item, Item)]
    assert [dict(parse(item, CONFIG).document.metadata) for item in items] == [
        {"year": 2010, "code": "12", "good": True, "new": "1"},
        {"year": "n/a", "code": "007", "good": "2", "new": "2"},
        {"code": "1.50", "good": False, "new": "x"},
    ]


@pytest.mark.parametrize("first", ["a.csv", "a.jsonl"])
def test_a_csv_is_read_as_the_types_that_the_sources_before_it_fix(folder: Path, first: str) -> None:
    """One cell that is no number costs its own row, in the first ingest of the sources as in a later one."""
    written = {"a.csv": "id,text,year\n0,t,2009\n", "a.jsonl": '{"id": "0", "text": "t", "year": 2009}\n'}
    (folder / first).write_text(written[first])
    (folder / "b.csv").write_text("id,text,year,code\n1,t,2010,7\n2,t,n/a,8\n3,t,2011,9\n")
    (folder / "c.csv").write_text("id,text,code\n4,t,x\n5,t,10\n")
    found = list_items([str(folder / name) for name in (first, "b.csv", "c.csv")], CONFIG)
    _, *others = (parse(item, CONFIG).document.metadata for item in found if isinstance(item, Item))
    assert [row.get("year") for row in others[:3]] == [2010, "n/a", 2011]
    assert [row.get("code") for row in others] == [7, 8, 9, "x", 10]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["true", "1", "2.5"], ["true", "1", "2.5"]),
        (["1", "2.5", "false"], ["1", "2.5", "false"]),
        (["2.5", "1"], [2.5, 1.0]),
    ],
)
def test_all_cells_of_a_csv_column_are_of_one_type(
    folder: Path, cells: list[str], values: list[Scalar]
) -> None:
    """The first one fixes the field: a row of another type would be refused."""
    path = folder / "m.csv"
    path.write_text("id,text,new\n" + "".join(f"{n},t,{cell}\n" for n, cell in enumerate(cells)))
    found = [parse(item, CONFIG).document.metadata["new"] for item in read(path)[0]]
    assert [(type(value), value) for value in found] == [(type(value), value) for value in values]


def test_a_csv_cell_that_does_not_fit_leaves_other_rows_as_they_were(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text("id,text,year,price\n1,t,2010,1\n2,t,2011,2.5\n")
    before, _ = read(path)
    path.write_text(path.read_text() + "3,t,n/a,-\n")
    after = list(list_items([str(path)], CONFIG, types={"year": "number", "price": "number"}))
    assert after[:2] == before


def test_csv_images_may_be_a_json_list(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text('id,images\n1,"[""a.png"", ""b.png""]"\n2,"[a"\n')
    [item], [rejected] = read(path)
    assert len(item.inputs) == 2
    assert "m.csv:3: column 'images' holds broken JSON" in rejected.reason


def test_bad_csv_rows_are_rejected_with_their_lines(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_bytes(b"id,text\n1,t\n2\n3,t,u\n4,\xff\n5," + b"x" * 2000 + b"\n6,t\n")
    items, rejected = read(path, SourceConfig(max_row_bytes=1000))
    assert [item.document_id for item in items] == ["1", "6"]
    assert [r.source.rpartition(":")[2] for r in rejected] == ["3", "4", "5", "6"]
    assert "has 1 cells, the header 2" in rejected[0].reason


@pytest.mark.parametrize("tail", ["3,t\n4,u\n", '3,"t"\n4,"u"\n', "3,t\n" + "4,u\n" * 400])
def test_a_quote_that_never_closes_costs_its_own_row_only(folder: Path, tail: str) -> None:
    path = folder / "m.csv"
    path.write_text('id,text\n1,t\n2,"open\n' + tail)
    items, rejected = read(path, SourceConfig(max_row_bytes=1000))
    assert list(dict.fromkeys(item.document_id for item in items)) == ["1", "3", "4"]
    assert len(items) == tail.count("\n") + 1
    assert rejected[0].source.endswith(":3")


@pytest.mark.parametrize(
    "hostile", ['b","c\n', 'b","c\n\n', '"b"c\nd,"\n', '1,t\nb","c\n', 'b","' + "c" * 2000 + "\n"], ids=repr
)
def test_quotes_that_never_close_cost_no_more_than_their_stretch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hostile: str
) -> None:
    sizes: list[int] = []

    def counted(raw: bytes, name: str) -> str:
        sizes.append(len(raw))
        return decode(raw, name)

    monkeypatch.setattr(manifest, "decode", counted)
    path = folder / "m.csv"
    path.write_text("id,text\n1,t\n" + hostile * 20_000 + '2,"t"\n3,"t"\n')
    items, rejected = read(path, SourceConfig(max_row_bytes=1000))
    assert sum(sizes) <= 2 * 20 * path.stat().st_size  # it is read twice
    assert items[0].document_id == "1"
    assert rejected[0].reason.startswith("m.csv:")


def test_rows_that_are_left_out_with_broken_ones_are_told(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text("id,text\n" + 'b","c\n' * 1000 + "1,t\n" * 500)
    items, rejected = read(path, SourceConfig(max_row_bytes=1000))
    told = [
        re.search(r"m\.csv:([0-9]+): .*all up to line ([0-9,]+) are left out", r.reason) for r in rejected
    ]
    left_out = [range(int(found[1]), int(found[2].replace(",", "")) + 1) for found in told if found]
    assert {items[0].document_id} == {"1"}
    # Every line is a document, is refused, or is told to be left out.
    assert len(items) + len(rejected) - len(left_out) + sum(map(len, left_out)) == 1500


def test_a_row_that_is_broken_on_its_own_line_costs_itself_however_many_there_are(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text("id,text\n" + '"a"b,t\n1,t\n' * 1000)
    items, rejected = read(path, SourceConfig(max_row_bytes=1000))
    assert (len(items), len(rejected)) == (1000, 1000)


def test_a_csv_without_known_columns_is_an_error_that_lists_its_own(folder: Path) -> None:
    path = folder / "m.csv"
    path.write_text("name,picture\nx,y\n")
    with pytest.raises(
        SourceError, match=r"needs a column 'id', 'image', 'images' or 'text'; it has 'name', 'picture'"
    ):
        read(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n1,2\n", b"id,id\n1,2\n"])
def test_a_csv_with_a_broken_header_is_an_error(folder: Path, content: bytes) -> None:
    path = folder / "m.csv"
    path.write_bytes(content)
    if content:
        with pytest.raises(SourceError, match=r"m\.csv"):
            read(path)
    else:
        with pytest.raises(SourceError, match="is empty"):
            read(path)


def test_parquet_rows_are_read(folder: Path) -> None:
    path = folder / "m.parquet"
    rows = {
        "id": [1, 2, 3],
        "images": [["a.png"], [], None],
        "text": ["t", "u", None],
        "score": [0.5, None, 1.0],
    }
    pq.write_table(pa.table(rows | {"tags": [None, ["x"], None]}), path)
    [item], [nested, empty] = read(path)
    assert dict(parse(item, CONFIG).document.metadata) == {"score": 0.5}
    assert "m.parquet:2: metadata field 'tags' is a list" in nested.reason
    assert "m.parquet:3: has neither" in empty.reason


def test_parquet_text_that_is_not_utf8_is_rejected_alone(folder: Path) -> None:
    path = folder / "m.parquet"
    texts = pa.array([b"ok", b"\xff", b"ok"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["1", "2", "3"], "text": texts}), path)
    items, [rejected] = read(path)
    assert [item.document_id for item in items] == ["1", "3"]
    assert rejected.source.endswith(":2")


def test_parquet_that_is_none_or_holds_pictures_is_an_error(folder: Path) -> None:
    path = folder / "m.parquet"
    path.write_bytes(b"not parquet")
    with pytest.raises(SourceError, match="no readable Parquet"):
        read(path)
    pq.write_table(pa.table({"image": [b"\x89PNG"]}), path)
    with pytest.raises(SourceError, match="column 'image' holds pictures themselves"):
        read(path)


def test_a_manifest_streams(folder: Path) -> None:
    path = folder / "m.jsonl"
    path.write_text('{"id": "1", "text": "t"}\n{\n' + '{"id": "2", "text": "t"}\n' * 3)
    stream = iter(list_items([str(path)], CONFIG))
    assert isinstance(next(stream), Item)
    assert isinstance(next(stream), Rejected)


def test_a_source_without_a_document_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "m.csv").write_text("id,text\n")
    assert read(folder / "m.csv") == ([], [])
    assert caplog.messages == [f"{folder}/m.csv: holds no document"]
