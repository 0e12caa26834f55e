"""Judged queries from files: the three forms, and rows that are wrong, each named with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import picture

from pipelines.core import lines
from pipelines.core.errors import UsageError
from pipelines.evaluate.queries import JudgedQuery, read_queries

ROW: dict[str, Any] = {"id": "q1", "text": "red", "relevant": ["rose"]}
TYPES = {"year": "int"}


def written(file: Path, *rows: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def only(data: Path, **fields: Any) -> JudgedQuery:
    [query] = read_queries(data, TYPES, **fields)
    return query


def test_a_row_of_our_own_form(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    row = ROW | {"image": "red.png", "mode": "image", "filter": "year > 2020", "relevant": {"rose#img-0": 2}}
    query = only(written(tmp_path / "q.jsonl", "", row))
    assert query.where == f"{tmp_path / 'q.jsonl'}:2"
    assert query.relevant == {"rose#img-0": 2}
    assert query.by_hit
    asked = query.query(7)
    assert (asked.text, asked.image, asked.mode, asked.k) == ("red", picture("red"), "image", 7)
    assert asked.where == query.filter is not None


def test_a_list_of_ids_means_grade_1_and_a_grade_of_0_is_not_relevant(tmp_path: Path) -> None:
    assert only(written(tmp_path / "a.jsonl", ROW)).relevant == {"rose": 1}
    graded = ROW | {"relevant": {"rose": 0, "tulip": 3, "weed": -2}}
    assert only(written(tmp_path / "b.jsonl", graded)).relevant == {"tulip": 3}
    assert only(written(tmp_path / "c.jsonl", ROW | {"relevant": []})).relevant == {}


@pytest.mark.parametrize(
    ("fields", "language"),
    [
        ({"text": "a red rose"}, "en"),
        ({"text": "rote 红 Rose"}, "zh"),
        ({"text": "rote Rose", "language": "de"}, "de"),
        ({"text": None, "image": "red.png"}, "no text"),
    ],
)
def test_the_language_is_the_rows_or_told_by_its_characters(
    tmp_path: Path, fields: dict[str, Any], language: str
) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    assert only(written(tmp_path / "q.jsonl", ROW | fields)).language == language


def test_a_row_of_mbeir(tmp_path: Path) -> None:
    (tmp_path / "mbeir_images").mkdir()
    (tmp_path / "mbeir_images" / "red.png").write_bytes(picture("red"))
    row = {
        "qid": "9:1",
        "query_txt": None,
        "query_img_path": "mbeir_images/red.png",
        "query_modality": "image",
        "query_src_content": None,
        "pos_cand_list": ["9:7", {"did": "9:8"}],
        "neg_cand_list": [],
    }
    query = only(written(tmp_path / "query" / "test" / "q.jsonl", row), image_root=tmp_path)
    assert (query.id, query.text, query.relevant) == ("9:1", None, {"9:7": 1, "9:8": 1})
    assert query.query(1).image == picture("red")


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    asked = [{"_id": f"q{n}", "text": "red", "metadata": {}} for n in (1, 2, 3)]
    written(tmp_path / "queries.jsonl", *asked)
    written(tmp_path / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q3\trose\t2", "q1\tweed\t0")
    written(tmp_path / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore", "q2\trose\t1")
    return tmp_path


def test_a_beir_directory_asks_what_its_split_judges(beir: Path) -> None:
    assert {q.id: q.relevant for q in read_queries(beir, {})} == {"q1": {}, "q3": {"rose": 2}}
    assert [q.id for q in read_queries(beir, {}, "dev")] == ["q2"]


@pytest.mark.parametrize(
    ("qrels", "complaint"),
    [
        (["q1\trose\t1"], "test.tsv:1: wanted a header"),
        (["query-id corpus-id score"], "test.tsv:1: has 1 columns"),
        (["query-id\tcorpus-id\tscore", "q1\trose\tgood"], "test.tsv:2: the grade 'good' is no number"),
        (["query-id\tcorpus-id\tscore", "q1\trose\tnan"], "test.tsv:2: the grade 'nan'"),
        (
            ["query-id\tcorpus-id\tscore", "q1\trose\t1e308"],
            "test.tsv:2: a grade is 1,000,000 at most, and not '1e308'",
        ),
        (
            ["query-id\tcorpus-id\tscore", "q1\trose\t1", "q1\trose\t2"],
            "test.tsv:3: gives 'rose' another grade",
        ),
        (["query-id\tcorpus-id\tscore", "q9\trose\t1"], "judges 'q9', which queries.jsonl does not have"),
    ],
)
def test_wrong_qrels_are_named(beir: Path, qrels: list[str], complaint: str) -> None:
    written(beir / "qrels" / "test.tsv", *qrels)
    with pytest.raises(UsageError, match=complaint):
        read_queries(beir, {})


@pytest.mark.parametrize("name", ["q1", "q2"])  # judged by the split, and not
def test_a_query_of_beir_that_stands_twice_is_named_with_both_places(beir: Path, name: str) -> None:
    with (beir / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": name, "text": "blue"}) + "\n")
    with pytest.raises(
        UsageError, match=rf"queries\.jsonl:4: the id '{name}' stands in .*:{name[1]} already"
    ):
        read_queries(beir, {})


def test_the_largest_grade_is_read(beir: Path) -> None:
    written(beir / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore", "q1\trose\t1000000")
    assert only(beir).relevant == {"rose": 1e6}


def test_a_split_that_is_not_there_names_those_that_are(beir: Path) -> None:
    with pytest.raises(UsageError, match="--split: dev, test"):
        read_queries(beir, {}, "train")
    with pytest.raises(UsageError, match="--split: dev, test"):
        read_queries(beir, {}, "../qrels/test")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "no JSON"),
        ("[" * 5000, "no JSON"),
        ("[]", ": wanted an object, in braces$"),
        (ROW | {"relevnt": []}, "relevnt: there is no such field$"),
        (ROW | {"relevant": "rose"}, "relevant: wanted a list of ids, or an object of ids"),
        (ROW | {"relevant": [{}]}, "relevant: wanted a list of ids, or an object of ids"),
        (ROW | {"relevant": {"rose": "best"}}, "relevant.rose: wanted a number$"),
        (ROW | {"relevant": {"rose": float("nan")}}, "relevant.rose: wanted a finite number$"),
        (ROW | {"relevant": {"rose": 1e308}}, "relevant.rose: a grade is 1,000,000 at most$"),
        (ROW | {"relevant": ["rose", "rose#img-0"]}, "names documents and hits"),
        (ROW | {"mode": "picture"}, "mode: wanted 'auto', 'text', 'image' or 'visually_similar'$"),
        (ROW | {"mode": "image"}, "mode image needs a picture"),
        (ROW | {"language": "overall"}, "language: .*names the figures of all"),
        (ROW | {"text": " "}, "the query is empty"),
        (ROW | {"text": "a\0b"}, "NUL"),
        (ROW | {"filter": "yeer == 1"}, "no field 'yeer'"),
        (ROW | {"filter": ""}, "filter"),
        (ROW | {"image": "nowhere.png"}, "there is no picture 'nowhere.png'"),
        (ROW | {"image": "../secret.png"}, "leaves the image root"),
        (ROW | {"image": "link.png"}, "leaves the image root"),
        (ROW | {"image": "http://host/a.png"}, "is an address"),
        ({"qid": "1", "query_txt": "red"}, "pos_cand_list: is missing$"),
        ({"qid": "1", "query_txt": "red", "pos_cand_list": [7]}, "pos_cand_list.0: wanted an object"),
        ({"qid": "1", "query_txt": "red", "pos_cand_list": [{"did": 7}]}, "0.did: wanted text, in quotes$"),
    ],
)
def test_a_wrong_row_is_named_with_its_file_and_line(tmp_path: Path, row: object, complaint: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    data = written(tmp_path / "data" / "q.jsonl", ROW | {"id": "q0"}, row)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_queries(data, TYPES)
    assert str(caught.value).startswith(f"{data}:2: ")


def test_an_id_that_stands_twice_is_named_with_both_places(tmp_path: Path) -> None:
    data = written(tmp_path / "q.jsonl", ROW, ROW)
    with pytest.raises(UsageError, match=r"q\.jsonl:2: the id 'q1' stands in .*q\.jsonl:1 already"):
        read_queries(data, TYPES)


@pytest.mark.parametrize(
    "edit",
    [
        {"text": "Red"},
        {"relevant": ["rose", "tulip"]},
        {"relevant": {"rose": 2}},
        {"mode": "text"},
        {"filter": "year > 1"},
        {"image": "red.png"},
    ],
)
def test_what_is_asked_and_what_is_right_make_the_digest(tmp_path: Path, edit: dict[str, Any]) -> None:
    (tmp_path / "red.png").write_bytes(picture())
    plain = only(written(tmp_path / "a.jsonl", ROW)).digest
    assert only(written(tmp_path / "b.jsonl", ROW | edit)).digest != plain
    same = {"relevant": {"tulip": 0, "rose": 1}, "language": "de", "id": "q7"}
    assert only(written(tmp_path / "c.jsonl", ROW | same)).digest == plain


def test_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(tmp_path / "q.jsonl", ROW, ROW | {"id": "q2", "text": "x" * 200})
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    with pytest.raises(UsageError, match=r"q\.jsonl:2: is longer than the 100 bytes"):
        read_queries(data, TYPES)
    monkeypatch.setattr(lines, "MAX_FILE_BYTES", 100)
    with pytest.raises(UsageError, match=r"q\.jsonl: has more than the 100 bytes"):
        read_queries(data, TYPES)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.jsonl: no such file"):
        read_queries(tmp_path / "nowhere.jsonl", {})
    with pytest.raises(UsageError, match="no qrels"):
        read_queries(tmp_path, {})
    with pytest.raises(UsageError, match="holds no queries"):
        read_queries(written(tmp_path / "empty.jsonl"), {})
    (tmp_path / "latin.jsonl").write_bytes(b'\n{"id": "caf\xe9"}\n')
    with pytest.raises(UsageError, match=r"latin\.jsonl:2: is not UTF-8 \(byte 11\)"):
        read_queries(tmp_path / "latin.jsonl", {})


def test_a_picture_that_has_gone_since_is_named(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture())
    query = only(written(tmp_path / "q.jsonl", ROW | {"image": "red.png"}))
    (tmp_path / "red.png").unlink()
    with pytest.raises(UsageError, match=r"q\.jsonl:1: red\.png"):
        query.query(1)
