"""A data set's report: everything in it, and every row that cannot be used."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fakes import picture
from rich.console import Console
from tiny_llava import IMAGE_TOKENS, tiny_processor

from pipelines.core.errors import UsageError
from pipelines.train.llava_check import check


def row(number: int, image: str | None, *texts: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"id": f"r{number}", "conversations": turns} | ({"image": image} if image else {})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "red.png").write_bytes(picture())  # 8 x 8
    (tmp_path / "cut.png").write_bytes(picture()[:-20])
    rows = [
        row(1, "red.png", "<image>\nwhere?", "[[1,1,5,5]]"),
        row(2, "red.png", "<image>\nwhere?", "[[1,1,5,5],[0,0,80,8]]"),
        row(3, "gone.png", "<image>", "a"),
        row(4, "cut.png", "<image>", "a"),
        "not json",
        row(6, None, "hello", "hi"),
        row(7, None, "hello " * 20, "hi", "again", "yes"),
        row(8, None, "hello" * 50, "too long"),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in rows))
    return file


def test_each_bad_row_is_told_once_with_its_line(data):
    report = check(data)
    assert (report.rows, report.good) == (8, 4)
    reasons = {bad.line: bad.reason for bad in report.bad}
    assert list(reasons) == [2, 3, 4, 5]
    for line, reason in {
        2: "box [[0,0,80,8]] is outside its picture of 8 x 8",
        3: "there is no picture 'gone.png'",
        4: "cut.png: truncated PNG",
        5: "invalid JSON",
    }.items():
        assert reason in reasons[line]


def test_the_counts(data):
    report = check(data)
    assert (report.turns, report.pictures, report.text_only) == (10, 1, 3)
    assert (report.missing_pictures, report.boxes, report.boxes_out_of_bounds) == (1, 3, 1)
    assert report.lengths is None


def test_lengths_need_a_processor(data):
    report = check(data, processor=tiny_processor(), max_tokens=160)
    assert report.lengths is not None
    assert {bad.line: bad.reason for bad in report.bad}[8].endswith("tokens > 160")
    assert report.good == 3
    assert report.lengths.shortened == 1  # row 7
    assert sum(rows for _, _, rows in report.lengths.bins) == 4
    assert report.lengths.longest > 250
    low, high, _ = report.lengths.bins[0]
    shortest = len("<s>USER: hello ASSISTANT: hi</s>") - 5  # two special tokens of 3 and 4 letters
    assert low <= shortest < high
    assert report.lengths.longest > IMAGE_TOKENS


def test_it_is_json_and_a_table(data):
    report = check(data, processor=tiny_processor(), max_tokens=160)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["bad"][0] == {"line": 2, "id": "r2", "reason": report.bad[0].reason}
    assert told["tokens"]["limit"] == 160
    out = io.StringIO()
    Console(file=out, width=120).print(report)
    for words in ("8: 3 good, 5 bad", "there is no picture 'gone.png'", "3, 1 out of bounds", "█"):
        assert words in out.getvalue()


def test_a_hostile_reason_is_shown_as_it_is(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row(1, "[red]x[/red][/nope].png", "<image>", "a") | {"id": "[/]"}))
    out = io.StringIO()
    Console(file=out, width=120).print(check(file))
    assert "[red]x[/red]" in out.getvalue()


def test_many_bad_rows_are_all_kept_and_some_shown(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(f"bad {n}" for n in range(100)))
    report = check(file)
    assert (report.good, len(report.as_dict()["bad"])) == (0, 100)
    out = io.StringIO()
    Console(file=out, width=120).print(report)
    assert "the first 20 of 100" in " ".join(out.getvalue().split())


def test_without_usable_rows_the_lengths_are_empty(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("bad")
    report = check(file, processor=tiny_processor())
    assert report.lengths is not None
    assert report.lengths.bins == ()
    Console(file=io.StringIO()).print(report)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        check(tmp_path / "gone.json")
