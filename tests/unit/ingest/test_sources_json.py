"""LLaVA's conversations and JSON arrays as sources, whole and broken ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pipelines.core.errors import SourceError
from pipelines.ingest.sources import Item, Rejected, SourceConfig, list_items, parse

CONFIG = SourceConfig()


def llava(identity: str, image: object, *said: str) -> dict[str, object]:
    speakers = ("human", "gpt") * len(said)
    turns = [{"from": who, "value": text} for who, text in zip(speakers, said, strict=False)]
    return {"id": identity, "image": image, "conversations": turns}


ROWS = [
    llava("a", "pictures/a.png", "<image>\nWhat is this?", "A pump."),
    llava("b", ["pictures/a.png", "b.png"], "Compare <image> with <image>.", "The second\n\nis larger."),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "talks"
    (folder / "pictures").mkdir(parents=True)
    for name in ("pictures/a.png", "b.png"):
        (folder / name).write_bytes(b"picture")
    return folder


def read(path: Path, config: SourceConfig = CONFIG) -> tuple[list[Item], list[Rejected]]:
    found = list(list_items([str(path)], config))
    return [f for f in found if isinstance(f, Item)], [f for f in found if isinstance(f, Rejected)]


def ids(items: list[Item]) -> list[str]:
    return [item.document_id for item in items]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.jsonl", "\n".join(map(json.dumps, ROWS))),
        ("lines.json", "\n".join(map(json.dumps, ROWS))),
        ("t.json", json.dumps(ROWS)),
        ("t.json", "\ufeff\n" + json.dumps(ROWS, indent=2)),
    ],
)
def test_a_conversation_becomes_a_document_with_its_pictures(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    items, rejected = read(path)
    assert not rejected
    first, second = (parse(item, CONFIG).document for item in items)
    assert (first.id, second.id) == ("a", "b")
    assert first.images == (str(folder / "pictures" / "a.png"),)
    assert [passage.text for passage in first.passages] == ["What is this?", "A pump."]
    assert second.images == (str(folder / "pictures" / "a.png"), str(folder / "b.png"))
    assert [passage.text for passage in second.passages] == ["Compare with .", "The second", "is larger."]
    assert {passage.images for passage in second.passages} == {(0, 1)}


def test_rows_of_a_plain_manifest_and_of_llava_may_stand_in_one_array(folder: Path) -> None:
    path = folder / "t.json"
    path.write_text(json.dumps([ROWS[0], {"id": "plain", "text": "<image> stays", "year": 2020}]))
    _, plain = (parse(item, CONFIG).document for item in read(path)[0])
    assert plain.passages[0].text == "<image> stays"
    assert dict(plain.metadata) == {"year": 2020}


@pytest.mark.parametrize(
    ("image", "reason"),
    [("../out.png", "leaves"), ("/etc/hostname", "leaves"), ("link.png", "leaves"), ("no.png", "not exist")],
)
def test_a_picture_outside_is_refused_and_what_is_said_stays(folder: Path, image: str, reason: str) -> None:
    (folder.parent / "out.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(folder.parent / "out.png")
    path = folder / "t.json"
    path.write_text(json.dumps([llava("x", [image, "b.png"], "Look.", "Yes.")]))
    [item], _ = read(path)
    parsed = parse(item, CONFIG)
    assert parsed.document.images == (str(folder / "b.png"),)
    assert reason in parsed.rejected[0].reason


@pytest.mark.parametrize(
    "said", ["hello", [3], [{"from": "human"}], [{"from": "human", "value": None}], {"from": "human"}]
)
def test_a_conversation_of_another_form_is_rejected_by_its_field(folder: Path, said: object) -> None:
    path = folder / "t.json"
    path.write_text(json.dumps([ROWS[0], {"id": "x", "conversations": said}, ROWS[1]]))
    items, [rejected] = read(path)
    assert ids(items) == ["a", "b"]
    assert "field 'conversations' must be a list of turns" in rejected.reason
    assert rejected.source == f"{path}:2"


def rows_around(bad: str) -> str:
    return f'[{{"id": "first", "text": "t"}},\n{bad},\n{{"id": "last", "text": "t"}}]'


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"id": "x" "text": "t"}', "broken JSON: Expecting ',' delimiter at character 12"),
        ('{"id": "x", "text": "t"', "broken JSON"),
        ('{"id": "x", "text": "t', "broken JSON"),
        ('{"id": "x", "text": t}}', "broken JSON"),
        ('{"id": "x", "n": NaN, "text": "t"}', "NaN"),
        ('"a text"', "JSON is a text, not an object"),
        ("[1, 2]", "JSON is a list, not an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"id": ' + "9" * 5000 + "}", "broken JSON"),
        ('{"id": "x", "text": "' + "y" * 4000 + '"}', "longer than the 3,000 bytes"),
        ('{"id": "x", "text": "' + "y" * 400_000 + '"}', "longer than the 3,000 bytes"),
    ],
)
def test_a_bad_element_is_rejected_once_and_the_next_is_read(folder: Path, bad: str, reason: str) -> None:
    path = folder / "t.json"
    path.write_text(rows_around(bad))
    items, [rejected] = read(path, SourceConfig(max_row_bytes=3000))
    assert ids(items) == ["first", "last"]
    assert reason in rejected.reason
    assert rejected.source == f"{path}:2"


def test_lists_in_a_broken_row_do_not_end_the_array(folder: Path) -> None:
    path = folder / "t.json"
    path.write_text(rows_around('{"id": "x" "lines": [{"text": "a"}, {"text": "b"}]}'))
    items, rejected = read(path)
    assert ids(items) == ["first", "last"]
    assert "broken JSON" in rejected[0].reason
    assert not any("array" in r.reason for r in rejected)


def test_rows_that_begin_with_another_field_are_found_behind_a_broken_one(folder: Path) -> None:
    path = folder / "t.json"
    row = '{"question": "q", "id": "%s", "text": "t"}'
    path.write_text(f"[{row % 1},\n{row[:-1] % 2},\n{row % 3}]")
    items, [rejected] = read(path)
    assert ids(items) == ["1", "3"]
    assert rejected.source == f"{path}:2"


def test_one_object_over_several_lines_is_an_error_that_says_what_to_do(folder: Path) -> None:
    path = folder / "t.json"
    path.write_text(json.dumps({"data": ROWS}, indent=1))
    with pytest.raises(SourceError, match="must be an array of rows, or have a row on each line"):
        read(path)


def test_an_element_that_is_not_utf8_is_rejected_alone(folder: Path) -> None:
    path = folder / "t.json"
    path.write_bytes(rows_around('{"id": "x", "text": "?"}').encode().replace(b"?", b"\xff"))
    items, [rejected] = read(path)
    assert ids(items) == ["first", "last"]
    assert "not UTF-8" in rejected.reason


def test_what_was_cut_off_is_told_and_what_came_before_is_read(folder: Path) -> None:
    path = folder / "t.json"
    whole = json.dumps(ROWS)
    path.write_text(whole[:-20])
    items, rejected = read(path)
    assert ids(items) == ["a"]
    assert any("the file ends inside the array" in r.reason for r in rejected)
    path.write_text(whole + whole)
    items, [behind] = read(path)
    assert ids(items) == ["a", "b"]
    assert "behind the end of the array" in behind.reason


def test_an_array_streams_whatever_its_length(folder: Path) -> None:
    path = folder / "t.json"
    path.write_text(json.dumps([{"id": str(n), "text": "t" * 900} for n in range(500)], indent=1))
    items, rejected = read(path, SourceConfig(max_row_bytes=1000))
    assert (len(items), rejected) == (500, [])


@pytest.mark.parametrize("unit", ['{"id":', '{"id":[1,', '{"id":[' + "1," * 500, '{"id":"x",'])
def test_hostile_nesting_costs_no_hours(folder: Path, unit: str) -> None:
    path = folder / "t.json"
    path.write_text("[" + unit * (2_000_000 // len(unit)) + ',\n{"id": "last", "text": "t"}]')
    start = time.process_time()
    items, rejected = read(path)
    assert time.process_time() - start < 20
    assert len(items) + len(rejected) < 50


@pytest.mark.parametrize(("text", "reason"), [("", "is empty"), (" ", "")])
def test_an_empty_file_is_no_crash(folder: Path, text: str, reason: str) -> None:
    path = folder / "t.json"
    path.write_text(text)
    if reason:
        with pytest.raises(SourceError, match=reason):
            read(path)
    else:
        assert read(path) == ([], [])
