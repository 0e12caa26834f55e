"""Judged questions from files, and rows that are wrong, each named with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import picture

from pipelines.core.errors import UsageError
from pipelines.evaluate.boxes import OnPicture
from pipelines.evaluate.questions import JudgedQuestion, read_questions

ROW: dict[str, Any] = {"id": "q1", "query": "How wide?"}
TYPES = {"year": "int"}


def written(file: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def only(data: Path) -> JudgedQuestion:
    [question] = read_questions(data, TYPES)
    return question


def test_a_whole_row(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    row = ROW | {
        "image": "red.png",
        "filter": "year > 2020",
        "answers": ["90 mm", "90"],
        "boxes": [{"image": "query", "xyxy": [1, 2, 3.5, 4]}, {"image": "doc#img-0", "xyxy": [0, 0, 1, 1]}],
    }
    found = only(written(tmp_path / "q.jsonl", "", row))
    assert found.where == f"{tmp_path / 'q.jsonl'}:2"
    assert (found.answers, found.answerable, found.language) == (("90 mm", "90"), True, "en")
    assert found.boxes == (OnPicture("query", (1, 2, 3.5, 4)), OnPicture("doc#img-0", (0, 0, 1, 1)))
    asked = found.query()
    assert (asked.text, asked.image, asked.mode, asked.k) == ("How wide?", picture("red"), "auto", 10)
    assert asked.where is not None


def test_what_a_row_leaves_out(tmp_path: Path) -> None:
    found = only(written(tmp_path / "q.jsonl", {"id": "q1", "query": "孔距？"}))
    assert (found.answers, found.boxes, found.answerable) == ((), (), True)
    assert found.language == "zh"


def test_a_picture_alone_has_no_language(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture("red"))
    assert only(written(tmp_path / "q.jsonl", {"id": "q1", "image": "red.png"})).language == "no text"


def test_a_filter_is_checked_against_the_index_where_one_is_asked(tmp_path: Path) -> None:
    data = written(tmp_path / "q.jsonl", ROW | {"filter": "yeer == 1"})
    with pytest.raises(UsageError, match=r"q\.jsonl:1: .*yeer"):
        read_questions(data, TYPES)
    assert len(read_questions(data, None)) == 1


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("{", "no JSON"),
        ("[]", ": wanted an object, in braces$"),
        (ROW | {"answer": "90"}, "answer: there is no such field$"),
        (ROW | {"id": ""}, "id: is empty$"),
        ({"id": "q1"}, "the query is empty"),
        (ROW | {"query": " "}, "the query is empty"),
        (ROW | {"query": "a\0b"}, "NUL"),
        (ROW | {"answers": "90 mm"}, "answers: wanted a list, in brackets$"),
        (ROW | {"answers": [90]}, r"answers.0: wanted text, in quotes$"),
        (ROW | {"answers": [" "]}, r"answers.0: is empty$"),
        (ROW | {"answerable": False, "answers": ["90"]}, "no answers and no boxes"),
        (ROW | {"answerable": "perhaps"}, "answerable: wanted true or false$"),
        (ROW | {"boxes": [{"image": "query", "xyxy": [0, 0, 1, 1]}]}, "picture of the query, which has none"),
        (ROW | {"boxes": [{"image": "doc#img-0", "xyxy": [0, 0, 1]}]}, r"boxes.0.xyxy.3: is missing$"),
        (
            ROW | {"boxes": [{"image": "doc#img-0", "xyxy": [0, 0, 1, 1, 9]}]},
            "wanted 4 values at most, not 5",
        ),
        (ROW | {"boxes": [[0, 0, 1, 1]]}, r"boxes.0: wanted an object, in braces$"),
        (ROW | {"boxes": [{"image": "doc#img-0", "xyxy": [5, 0, 1, 1]}]}, "left, top, right, bottom"),
        (ROW | {"boxes": [{"image": "doc#img-0", "xyxy": [0, 0, 1, float("nan")]}]}, "finite"),
        (ROW | {"boxes": [{"image": "doc", "xyxy": [0, 0, 1, 1]}]}, "a hit's id"),
        (ROW | {"language": "overall"}, "names the figures of all"),
        (ROW | {"image": "nowhere.png"}, "there is no picture 'nowhere.png'"),
        (ROW | {"image": "../secret.png"}, "leaves the image root"),
        (ROW | {"image": "link.png"}, "leaves the image root"),
        (ROW | {"image": "http://host/a.png"}, "is an address"),
        (ROW | {"filter": "yeer == 1"}, "no field 'yeer'"),
        (ROW | {"id": "q0"}, r"the id 'q0' stands in .*q\.jsonl:1 already"),
    ],
)
def test_a_wrong_row_is_named_with_its_file_and_line(tmp_path: Path, row: object, complaint: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    data = written(tmp_path / "data" / "q.jsonl", ROW | {"id": "q0"}, row)
    with pytest.raises(UsageError, match=complaint) as caught:
        read_questions(data, TYPES)
    assert str(caught.value).startswith(f"{data}:2: ")


@pytest.mark.parametrize(
    "edit",
    [
        {"query": "How tall?"},
        {"answers": ["90 mm"]},
        {"answerable": False},
        {"image": "red.png"},
        {"filter": "year > 1"},
        {"boxes": [{"image": "doc#img-0", "xyxy": [0, 0, 1, 1]}]},
    ],
)
def test_what_is_asked_and_what_is_right_make_the_digest(tmp_path: Path, edit: dict[str, Any]) -> None:
    (tmp_path / "red.png").write_bytes(picture())
    plain = only(written(tmp_path / "a.jsonl", ROW)).digest
    assert only(written(tmp_path / "b.jsonl", ROW | edit)).digest != plain
    same = {"answers": [], "answerable": True, "language": "de", "id": "q7"}
    assert only(written(tmp_path / "c.jsonl", ROW | same)).digest == plain


def test_an_empty_file_and_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no questions"):
        read_questions(written(tmp_path / "q.jsonl"), TYPES)
    with pytest.raises(UsageError, match="no such file"):
        read_questions(tmp_path / "nowhere.jsonl", TYPES)


def test_a_picture_that_has_gone_since_is_named(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(picture())
    found = only(written(tmp_path / "q.jsonl", ROW | {"image": "red.png"}))
    (tmp_path / "red.png").unlink()
    with pytest.raises(UsageError, match=r"q\.jsonl:1: red\.png"):
        found.query()
