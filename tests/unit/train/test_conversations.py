"""Rows of conversations: a sample, or a bad row with its line and the reason."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from fakes import picture

from pipelines.core.errors import BadPart, UsageError
from pipelines.core.picture_files import read_picture
from pipelines.core.prompts import Turn
from pipelines.train import row_index
from pipelines.train.conversations import (
    BadRow,
    ConversationFile,
    Sample,
    data_hash,
    read_conversations,
)

HUMAN = {"from": "human", "value": "<image>\nWhat is it?"}
GPT = {"from": "gpt", "value": "A red square."}
ROW: dict[str, Any] = {"id": "a", "image": "red.png", "conversations": [HUMAN, GPT]}
URI = "data:image/png;base64," + base64.b64encode(picture("blue")).decode()


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def messages(*contents: Any) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    for colour in ("red", "green"):
        (folder / f"{colour}.png").write_bytes(picture(colour))
    file = folder / name
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), "utf-8")
    return file


def read(folder: Path, *rows: Any) -> list[Sample | BadRow]:
    return list(read_conversations(write(folder, *rows)))


# --- what is understood


def test_a_llava_row(tmp_path):
    (sample,) = read(tmp_path, ROW)
    turns = (Turn("user", "<image>\nWhat is it?"), Turn("assistant", "A red square."))
    assert sample == Sample("a", (tmp_path / "red.png",), turns, 1)


def test_many_turns_many_pictures_and_none(tmp_path):
    system = {"from": "system", "value": "Be brief."}
    many = {"id": 7, "image": ["red.png", "green.png"]}
    many["conversations"] = [system, *said("<image>", "red", "and <image>?", "green")]
    text_only = {"conversations": said("hello", "hi")}
    first, second = read(tmp_path, many, text_only)
    assert [turn.role for turn in first.turns] == ["system", "user", "assistant", "user", "assistant"]
    assert (first.id, [path.name for path in first.images]) == ("7", ["red.png", "green.png"])
    assert (second.id, second.images) == ("row 2", ())


def test_openai_messages(tmp_path):
    content = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "green.png"}},
        {"type": "text", "text": "this?"},
        {"type": "image_url", "image_url": {"url": URI}},
    ]
    (sample,) = read(tmp_path, {"messages": messages(content, "Two squares.")})
    assert sample.turns[0].text == "What is\n<image>\nthis?\n<image>"
    assert sample.images == (tmp_path / "green.png", picture("blue"))
    assert [read_picture(source) for source in sample.images] == [picture("green"), picture("blue")]


def test_image_parts_take_the_pictures_of_the_row(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    (sample,) = read(tmp_path, {"images": ["red.png"], "messages": messages(content, "Red.")})
    assert (sample.turns[0].text, sample.images) == ("<image>\nWhat?", (tmp_path / "red.png",))


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_array_holds_the_same_samples_as_lines(tmp_path, indent, ascii_only):
    rows = [ROW | {"id": f"第{n}行"} for n in range(5)]
    lines = list(read_conversations(write(tmp_path, *rows)))
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    array = list(read_conversations(write(tmp_path, text, name="rows.json")))
    assert [sample.id for sample in array] == [sample.id for sample in lines]
    assert [sample.turns for sample in array] == [sample.turns for sample in lines]
    opening = [n for n, line in enumerate(text.splitlines(), start=1) if line == "  {"]
    assert [sample.line for sample in array] == (opening or [1] * 5)


def test_a_byte_order_mark_and_blank_lines_are_no_matter(tmp_path):
    file = write(tmp_path)
    file.write_text(f"\n  \n{json.dumps(ROW)}\r\n\n", "utf-8-sig")
    assert [(row.id, row.line) for row in read_conversations(file)] == [("a", 3)]
    file = write(tmp_path, json.dumps([ROW]), name="rows.json")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert [row.id for row in read_conversations(file)] == ["a"]


# --- what is refused


def with_turns(*turns: Any) -> dict[str, Any]:
    return {"id": "a", "conversations": list(turns)}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"id": "a", "conversations"', "invalid JSON"),
        ("[1, 2]", "is a list; wanted an object"),
        ("null", "is null"),
        ('"text"', "is a text"),
        ('{"id": ' + "[" * 100_000, "invalid JSON"),
        ('{"id": ' + "9" * 10_000 + "}", "invalid JSON"),
        ({"id": "a"}, "neither 'conversations' nor 'messages'"),
        ({"id": "a", "conversations": {}}, "neither 'conversations' nor 'messages'"),
        ({"id": "a", "messages": "hi"}, "messages: wanted a list"),
        ({"id": [], "conversations": []}, "id: wanted"),
        (with_turns(), "the conversation is empty"),
        (with_turns("hi"), "turn 1 is a text"),
        (with_turns({"from": "human", "value": 3}), "value is a number"),
        (with_turns({"from": "human"}), "value is null"),
        (with_turns({"from": "robot", "value": "hi"}), "unknown role 'robot'"),
        (with_turns({"from": ["human"], "value": "hi"}), "unknown role"),
        (with_turns(*said("hi")), "no turn of the assistant's"),
        (with_turns(*said("hi", "  ")), "turn 2 is empty"),
        (with_turns(*said("a", "b", "c")), "ends with the user's turn"),
        (with_turns(*said("a", "b"), GPT), "turn 3 is the assistant's; turns alternate"),
        (with_turns(GPT, *said("a", "b")), "turn 1 is the assistant's"),
        (with_turns(*said("a", "b"), {"from": "system", "value": "c"}), "turn 3 is the system's"),
        (with_turns(*said(*["a", "b"] * 101)), "202 turns; at most 200"),
        (with_turns(*said("a" * 1_000_001, "b")), "more than 1,000,000 characters"),
        (with_turns(*said("<image>", "b")), "has 1 <image> for 0 pictures"),
        (with_turns(*said("a", "<image>")) | {"image": "red.png"}, "turn 2: <image> in a turn"),
        (with_turns(*said("a", "b")) | {"image": "red.png"}, "has 0 <image> for 1 pictures"),
        (with_turns(*said("a\0", "b")), "turn 1: holds a NUL"),
        ('{"conversations": [{"from": "human", "value": "\\ud800"}]}', "half a surrogate pair"),
        (ROW | {"image": "gone.png"}, "there is no picture 'gone.png'"),
        (ROW | {"image": "red.png\0"}, "NUL"),
        (ROW | {"image": "../red.png"}, "leaves the image root"),
        (ROW | {"image": "/etc/hostname"}, "leaves the image root"),
        (ROW | {"image": "https://example.org/a.png"}, "is an address"),
        (ROW | {"image": "file:///etc/hostname"}, "is an address"),
        (ROW | {"image": "."}, "is not a file"),
        (ROW | {"image": "red.png/x"}, "cannot be read"),
        (ROW | {"image": "x" * 5000}, "cannot be read"),
        (ROW | {"image": "empty.png"}, "has 0 bytes"),
        (ROW | {"image": "link-out.png"}, "leaves the image root"),
        (ROW | {"image": "loop.png"}, "cannot be read"),
        (ROW | {"image": "pipe.png"}, "is not a file"),
        (ROW | {"image": 3}, "image: wanted a file name"),
        (ROW | {"image": ["red.png", None]}, "image: wanted a file name"),
        (ROW | {"images": ["red.png"]}, "'image' and 'images'"),
        ({"messages": messages([{"type": "audio"}], "b")}, "unknown part 'audio'"),
        ({"messages": messages(["a"], "b")}, "unknown part None"),
        ({"messages": messages([{"type": "image_url"}], "b")}, "image_url has no url"),
        ({"messages": messages(None, "b")}, "content is null"),
        ({"messages": messages([{"type": "image_url", "image_url": URI + "!"}], "b")}, "not base64"),
        ({"messages": messages([{"type": "image_url", "image_url": "data:text/html,x"}], "b")}, "an address"),
    ],
)
def test_a_bad_row_costs_itself_and_says_why(tmp_path, row, reason):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "red.png").write_bytes(picture())
    (folder / "link-out.png").symlink_to(tmp_path / "red.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")
    before, bad, after = read(folder, ROW | {"id": "before"}, row, ROW | {"id": "after"})
    assert (before.id, after.id, after.line) == ("before", "after", 3)
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert reason in bad.reason


def test_missing_pictures_are_named(tmp_path):
    row = ROW | {"image": ["x.png", "red.png", "y.png"], "conversations": said("<image><image><image>", "b")}
    (bad,) = read(tmp_path, row)
    assert bad.missing == ("x.png", "y.png")


def test_a_link_inside_the_root_is_followed(tmp_path):
    (tmp_path / "link.png").symlink_to("red.png")
    (sample,) = read(tmp_path, ROW | {"image": "link.png"})
    assert sample.images == (tmp_path / "red.png",)


def test_a_picture_that_becomes_a_link_later_is_not_read(tmp_path):
    (sample,) = read(tmp_path, ROW)
    (tmp_path / "red.png").unlink()
    (tmp_path / "red.png").symlink_to("/etc/hostname")
    with pytest.raises(BadPart, match=r"red\.png: cannot be read"):
        read_picture(sample.images[0])


def test_pictures_may_be_in_another_folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/blue.png").write_bytes(picture("blue"))
    file = write(tmp_path, ROW | {"image": "blue.png"}, ROW)
    good, bad = read_conversations(file, tmp_path / "pictures")
    assert good.images == (tmp_path / "pictures/blue.png",)
    assert "there is no picture 'red.png'" in bad.reason


def test_a_row_that_repeats_another_is_refused_and_one_with_its_id_is_not(tmp_path):
    # LLaVA-Instruct-150K has up to three conversations of a picture, under one id.
    other = ROW | {"conversations": [HUMAN, GPT | {"value": "Red."}]}
    first, second, third = read(tmp_path, ROW, other, ROW)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert (third.line, third.reason) == (3, "repeats line 1")


def test_bytes_that_are_no_utf8_cost_their_row(tmp_path):
    line = json.dumps(ROW).encode()
    broken = line.replace(b"square", b"\xff\xfe")
    for name, data in (
        ("rows.jsonl", b"\n".join([line, broken, line.replace(b'"a"', b'"b"')])),
        ("rows.json", b"[" + b",\n".join([line, broken, line.replace(b'"a"', b'"b"')]) + b"]"),
    ):
        file = write(tmp_path, name=name)
        file.write_bytes(data)
        first, bad, last = read_conversations(file)
        assert (first.id, last.id, bad.line) == ("a", "b", 2), name
        assert "is not UTF-8" in bad.reason, name


def test_a_huge_line_is_skipped_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(row_index, "MAX_ROW_BYTES", 2000)
    huge = ROW | {"id": "x" * 400, "note": "y" * 3_000_000}
    bad, good = read(tmp_path, huge, ROW)
    assert (bad.line, "longer than the limit" in bad.reason) == (1, True)
    assert (good.id, good.line) == ("a", 2)
    array = write(tmp_path, json.dumps([huge, ROW]), name="rows.json")
    assert [type(row) for row in read_conversations(array)] == [BadRow, Sample]


@pytest.mark.parametrize(
    "broken",
    [
        '{"id": "x", "conversations": [{"from": "human" "value": "a"}, {"from": "gpt", "value": "b"}]}',
        '{"id": "x", "conversations": [{"from": "human", "value": "a"}',
        '{"id": "x", "conversations": [{"from": "human", "value": "a}]}',
        '{"id": "x"}]',
        "}",
        '"only text"',
        "3",
    ],
)
def test_a_broken_element_of_an_array_costs_itself(tmp_path, broken):
    rows = [json.dumps(ROW | {"id": str(n)}) for n in range(3)]
    text = "[\n" + ",\n".join([rows[0], broken, *rows[1:]]) + "\n]\n"
    found = list(read_conversations(write(tmp_path, text, name="rows.json")))
    assert [row.id for row in found if isinstance(row, Sample)] == ["0", "1", "2"]
    bad = [row for row in found if isinstance(row, BadRow)]
    assert {row.line for row in bad} == {3}
    assert len(bad) <= 2  # of `{...}]` the object and the bracket


def test_an_array_that_was_cut_off_keeps_its_whole_rows(tmp_path):
    text = json.dumps([ROW | {"id": str(n)} for n in range(4)])
    found = list(read_conversations(write(tmp_path, text[:-40], name="rows.json")))
    assert [isinstance(row, Sample) for row in found] == [True, True, True, False]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_one_bad_row_of_three_thousand_costs_one(tmp_path, name):
    rows = [json.dumps({"id": str(n), "conversations": said(f"q{n}", "答")}) for n in range(3000)]
    rows[1234] = rows[1234][:-30]
    text = "\n".join(rows) if name.endswith("l") else "[" + ",\n".join(rows) + "]"
    found = list(read_conversations(write(tmp_path, text, name=name)))
    assert len(found) == 3000
    assert [row.line for row in found if isinstance(row, BadRow)] == [1235]


@pytest.mark.parametrize("content", ["", "  \n\n", "[]", "[ ]\n"])
def test_a_file_without_rows_is_refused(tmp_path, content):
    with pytest.raises(UsageError, match="holds no rows"):
        ConversationFile(write(tmp_path, content, name="rows.json"))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        ConversationFile(tmp_path / "gone.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        data_hash(tmp_path / "gone.jsonl")
    with pytest.raises(UsageError, match="no such folder"):
        ConversationFile(write(tmp_path, ROW), tmp_path / "gone")


# --- rows by ordinal


@pytest.mark.parametrize("form", ["lines", "array"])
def test_rows_are_read_in_any_order(tmp_path, form):
    rows = [ROW | {"id": f"号{n}"} if n % 5 else with_turns() | {"id": f"{n}"} for n in range(20)]
    if form == "lines":
        file = write(tmp_path, *rows)
    else:
        file = write(tmp_path, json.dumps(rows, ensure_ascii=False, indent=1), name="rows.json")
    by_ordinal = ConversationFile(file)
    assert len(by_ordinal) == 20
    order = [*random.Random(0).sample(range(20), 20), 3, 3]
    everything = list(read_conversations(file))
    assert by_ordinal.read(order) == [everything[ordinal] for ordinal in order]


def test_an_index_travels_to_a_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ROW)
    here = ConversationFile(Path("rows.jsonl"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = pickle.loads(pickle.dumps(here))
    assert [row.id for row in there.read([0])] == ["a"]


def test_the_data_hash_is_of_the_bytes(tmp_path):
    file = write(tmp_path, ROW)
    assert data_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()
