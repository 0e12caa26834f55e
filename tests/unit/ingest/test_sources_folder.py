"""Folders as sources: which files become documents, with which ids, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import take_away

from pipelines.core.errors import BadPart, BadText, SourceError
from pipelines.core.types import Document
from pipelines.ingest.hashing import stamp_file
from pipelines.ingest.sources import Item, Rejected, SourceConfig, list_items, parse

CONFIG = SourceConfig()


def items(*sources: Path | str, config: SourceConfig = CONFIG) -> list[Item]:
    return [found for found in list_items([str(s) for s in sources], config) if isinstance(found, Item)]


def rejections(*sources: Path | str, config: SourceConfig = CONFIG) -> list[Rejected]:
    return [found for found in list_items([str(s) for s in sources], config) if isinstance(found, Rejected)]


def documents(*sources: Path | str, config: SourceConfig = CONFIG) -> dict[str, Document]:
    return {item.document_id: parse(item, config).document for item in items(*sources, config=config)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    (folder / "old").mkdir(parents=True)
    (folder / "cat.jpg").write_bytes(b"cat")
    (folder / "old" / "dog.PNG").write_bytes(b"dog")
    return folder


def test_each_picture_is_a_document_named_by_folder_and_path(folder: Path) -> None:
    found = documents(folder)
    assert list(found) == ["pets/cat.jpg", "pets/old/dog.PNG"]
    assert found["pets/cat.jpg"].images == (str(folder / "cat.jpg"),)
    assert found["pets/cat.jpg"].source == str(folder / "cat.jpg")


def test_a_folder_of_another_file_system_is_read_like_one_here_and_its_listing_stamps_it(
    folder: Path,
) -> None:
    (folder / "cat.txt").write_text("asleep")
    (folder / "old" / "note.md").write_text("a note")
    for file in folder.rglob("*.*"):
        os.utime(file, (1_000, 1_000))
    far = SourceConfig(allowed_addresses=("fsspec+file://",))
    found = items(f"fsspec+file://{folder}", config=far)
    assert [(item.document_id, item.stamps) for item in found] == [
        ("pets/cat.jpg", ("3:1000000000000", "6:1000000000000")),
        ("pets/old/dog.PNG", ("3:1000000000000",)),
        ("pets/old/note.md", ("6:1000000000000",)),
    ]
    assert [stamp_file(address) for address in found[0].inputs] == list(found[0].stamps)
    assert [parse(item, far).document.passages for item in found] == [
        document.passages for document in documents(folder).values()
    ]


def test_listing_opens_no_picture(folder: Path) -> None:
    (folder / "cat.jpg").chmod(0)
    assert items(folder)[0].inputs == (str(folder / "cat.jpg"),)


def test_texts_beside_a_picture_belong_to_it(folder: Path) -> None:
    (folder / "cat.txt").write_text("A cat.\n\nIt is\nasleep.")
    (folder / "cat.jpg.md").write_text("猫在\n睡觉。")
    item = items(folder)[0]
    assert item.inputs == tuple(str(folder / name) for name in ("cat.jpg", "cat.txt", "cat.jpg.md"))
    document = parse(item, CONFIG).document
    assert [passage.text for passage in document.passages] == ["A cat.", "It is asleep.", "猫在睡觉。"]
    assert {passage.images for passage in document.passages} == {(0,)}
    assert document.captions == ("A cat.",)


def test_a_json_beside_a_picture_gives_id_caption_tenant_and_metadata(folder: Path) -> None:
    side_car = {
        "id": "c1",
        "caption": "Tom",
        "year": 2020,
        "tenant": "t",
        "metadata": {"good": True},
        "gone": None,
    }
    (folder / "cat.json").write_text(json.dumps(side_car))
    document = documents(folder)["c1"]
    assert document.captions == ("Tom",)
    assert dict(document.metadata) == {"year": 2020, "good": True}
    assert document.tenant == "t"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "cat.json: broken JSON"),
        ("[1]", "cat.json: JSON is a list, not an object"),
        ('{"id":"c1","tenant":"acme","caption":"T', "broken JSON"),
        ('{"a": NaN}', "NaN"),
        ('{"id": "c1", "tenant": ["acme"]}', "field 'tenant' is a list"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_json_that_does_not_tell_whose_picture_it_is_costs_the_picture(
    folder: Path, text: str, reason: str
) -> None:
    (folder / "cat.json").write_text(text)
    assert list(documents(folder)) == ["pets/old/dog.PNG"]
    [rejected] = rejections(folder)
    assert reason in rejected.reason
    assert rejected.source.endswith("cat.json")  # by which the ledger knows the document that is to stay


@pytest.mark.parametrize(
    ("field", "reason"),
    [('"a": 1e999', "metadata field 'a' is inf"), ('"tags": ["x"]', "metadata field 'tags' is a list")],
)
def test_a_field_of_a_json_that_cannot_be_kept_costs_the_other_fields_but_id_and_tenant(
    folder: Path, field: str, reason: str
) -> None:
    (folder / "cat.json").write_text(f'{{"id": "c1", "tenant": "acme", "caption": "Tom", {field}}}')
    document = documents(folder)["c1"]
    assert (document.tenant, document.captions, document.metadata) == ("acme", ("",), {})
    [rejected] = rejections(folder)
    assert rejected.reason == f"cat.json: {reason}; it must be a text, a finite number, true or false"


def test_a_picture_waits_for_a_json_that_does_not_answer_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under which id, and whose it is, stands there."""
    (folder / "cat.json").write_text('{"id": "c1", "tenant": "t"}')
    take_away(monkeypatch, "cat.json")
    assert list(documents(folder)) == ["pets/old/dog.PNG"]
    [rejected] = rejections(folder)
    assert rejected.source.endswith("cat.json")


@pytest.mark.parametrize("name", ["cat.txt", "cat.json"])
def test_a_picture_waits_for_a_linked_side_car_that_does_not_answer_now(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without it the picture would be another document, and what the side-car said be deleted."""
    (folder / ".said").write_text('{"id": "c1"}')
    (folder / name).symlink_to(".said")
    (folder / "cat.jpg.json").write_text('{"id": "c1"}')
    [known, _] = items(folder)
    take_away(monkeypatch, ".said", "stat")
    assert list(documents(folder)) == ["pets/old/dog.PNG"]
    [rejected] = rejections(folder)
    assert rejected.source in known.inputs  # by which the ledger knows the document that is to stay
    assert name in rejected.reason


def test_an_unreadable_text_is_rejected_and_its_picture_stays(folder: Path) -> None:
    (folder / "cat.txt").write_bytes("Käse".encode("latin-1"))
    parsed = parse(items(folder)[0], CONFIG)
    assert parsed.document.images
    assert "cat.txt: not UTF-8 text (at byte 1)" in parsed.rejected[0].reason


def test_a_text_without_a_picture_is_a_document(folder: Path) -> None:
    (folder / "notes.md").write_text("one\n\ntwo")
    assert [p.text for p in documents(folder)["pets/notes.md"].passages] == ["one", "two"]


def test_two_folders_with_equal_names_inside_do_not_meet(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"x")
    assert [item.document_id for item in items(tmp_path / "a", tmp_path / "b")] == ["a/1.png", "b/1.png"]


def test_a_folder_named_twice_is_read_once(folder: Path) -> None:
    assert len(items(folder, f"file://{folder}", f"{folder}/old/..")) == 2
    assert not rejections(folder, f"file://{folder}")


def test_equal_ids_of_two_tenants_are_two_documents(folder: Path) -> None:
    for name, tenant in (("cat.json", "a"), ("old/dog.json", "b")):
        (folder / name).write_text(json.dumps({"id": "same", "tenant": tenant}))
    assert [item.tenant for item in items(folder)] == ["a", "b"]


def test_a_folder_with_a_page_is_a_corpus_of_pages(folder: Path) -> None:
    (folder / "old" / "index.html").write_text("<p>Hello</p>")
    (folder / "readme.txt").write_text("left out")
    assert [item.document_id for item in items(folder)] == ["pets/old/index.html"]
    both = SourceConfig(pictures_beside_html=True)
    assert len(items(folder, config=both)) == 4


def test_hidden_names_are_skipped(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "x.png").write_bytes(b"x")
    (folder / "._cat.jpg").write_bytes(b"x")
    assert len(items(folder)) == 2


def test_a_folder_named_like_a_picture_is_reported_and_walked(folder: Path) -> None:
    (folder / "x.png").mkdir()
    (folder / "x.png" / "y.png").write_bytes(b"y")
    assert "pets/x.png/y.png" in documents(folder)
    [rejected] = rejections(folder)
    assert rejected.reason == "x.png: is a folder, not a picture"


def test_links_inside_are_read_and_links_out_are_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"s")
    (folder / "inside.png").symlink_to("old/dog.PNG")
    (folder / "out.png").symlink_to(outside / "secret.png")
    (folder / "outdir").symlink_to(outside)
    (folder / "broken.png").symlink_to("nothing.png")
    assert [item.document_id for item in items(folder)] == [
        "pets/cat.jpg",
        "pets/inside.png",
        "pets/old/dog.PNG",
    ]
    reasons = {rejected.document_id: rejected.reason for rejected in rejections(folder)}
    assert reasons.keys() == {"pets/out.png", "pets/outdir", "pets/broken.png"}
    assert "allowed_roots" in reasons["pets/out.png"]
    assert "allowed_roots" in reasons["pets/outdir"]
    assert "does not exist" in reasons["pets/broken.png"]


def test_links_into_an_allowed_root_are_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "shared.png").write_bytes(b"s")
    (folder / "outdir").symlink_to(outside)
    config = SourceConfig(allowed_roots=(str(outside),))
    assert "pets/outdir/shared.png" in documents(folder, config=config)
    assert not rejections(folder, config=config)


def test_loops_of_links_end(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (folder / "self").symlink_to(folder)
    (folder / "other").symlink_to(other)
    (other / "other").symlink_to(other)
    (other / "back").symlink_to(folder)
    (folder / "loop.png").symlink_to("loop.png")
    config = SourceConfig(allowed_roots=(str(other),))
    assert len(items(folder, config=config)) == 2
    assert [r.document_id for r in rejections(folder, config=config)] == ["pets/loop.png"]


def test_a_pipe_named_like_a_picture_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    [rejected] = rejections(folder)
    assert "pipe.png: is a pipe" in rejected.reason


def test_a_name_that_is_not_utf8_is_refused(folder: Path) -> None:
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))).write_bytes(b"x")
    [rejected] = rejections(folder)
    assert "not UTF-8; rename it" in rejected.reason
    (rejected.reason + rejected.document_id + rejected.source).encode()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty (0 bytes)"), (b"x" * 11, "more than the 10 allowed")]
)
def test_an_unusable_picture_leaves_its_text(folder: Path, content: bytes, reason: str) -> None:
    (folder / "cat.jpg").write_bytes(content)
    config = SourceConfig(max_file_bytes=10)
    with pytest.raises(BadPart, match=r"cat\.jpg"):
        parse(items(folder)[0], config)
    (folder / "cat.txt").write_text("A cat.")
    parsed = parse(items(folder)[0], config)
    assert parsed.document.images == ()
    assert parsed.document.passages[0].images == ()
    assert reason in parsed.rejected[0].reason


def test_ten_megabytes_of_text_are_one_clear_line(folder: Path) -> None:
    (folder / "big.txt").write_bytes(b"word " * 2_000_000)
    [big] = [item for item in items(folder) if item.form == "text"]
    with pytest.raises(BadText, match=r"big\.txt: has 10,000,000 bytes, more than the 8,388,608 allowed"):
        parse(big, CONFIG)


def test_a_single_file_has_the_id_it_has_in_its_folder(folder: Path) -> None:
    (folder / "cat.txt").write_text("A cat.")
    [item] = items(folder / "cat.jpg")
    as_part_of_folder = items(folder)[0]
    assert item == replace(as_part_of_folder, scope=str(folder / "cat.jpg"))
    assert as_part_of_folder.scope == str(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "does not exist; a SOURCE is a folder"),
        ("x.zip", "of no known form; a SOURCE is a folder"),
        ("s3://bucket/x", "add its bucket to allowed_addresses"),
        ("https://example.org/x.png", "is a network address"),
        ("file://host/x", "another machine"),
        ("~nobody-of-that-name/x", "home of a user who is not known here"),
        ("x" * 300 + ".png", "File name too long"),
        ("x.zip/x.png", "does not exist"),
        ("", "an empty SOURCE; name a folder"),
        (" ", "an empty SOURCE; name a folder"),
    ],
)
def test_an_unusable_source_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"x")
    with pytest.raises(SourceError, match=reason) as error:
        list_items([name], CONFIG)
    assert name in str(error.value)


def test_a_source_with_a_nul_is_an_error() -> None:
    for name in ("a\0b", "file:///a%00b"):
        with pytest.raises(SourceError, match="no path has"):
            list_items([name], CONFIG)


def test_a_picture_whose_folder_cannot_be_listed_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: str) -> list[str]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(SourceError, match=r"cat\.jpg: what lies beside it cannot be listed \(Permission den"):
        list(list_items([str(folder / "cat.jpg")], CONFIG))


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.tar", "gone-folder", "gone.of-no-known-form"])
def test_a_missing_source_that_is_known_holds_nothing_any_more(tmp_path: Path, name: str) -> None:
    gone = str(tmp_path / name)
    (tmp_path / "note.txt").write_text("A note.")
    listing = list_items([gone, str(tmp_path / "note.txt")], CONFIG, known={gone})
    assert [item.document_id for item in listing] == [f"{tmp_path.name}/note.txt"]
    assert dict(listing.scopes) == {gone: False, str(tmp_path / "note.txt"): False}
    with pytest.raises(SourceError, match="nor does the index know documents of it; a SOURCE"):
        list_items([gone], CONFIG, known={str(tmp_path)})


def test_a_source_that_is_known_and_there_is_listed(folder: Path) -> None:
    known = {str(folder)}
    assert list(list_items([str(folder)], CONFIG, known=known)) == list(list_items([str(folder)], CONFIG))


def test_an_object_that_is_missing_is_an_error_or_known() -> None:
    config, gone = SourceConfig(allowed_addresses=("mock://bucket",)), "mock://bucket/gone.parquet"
    with pytest.raises(SourceError, match=f"{gone}: does not exist; a SOURCE"):
        list_items([gone], config)
    listing = list_items([gone], config, known={gone})
    assert (list(listing), dict(listing.scopes)) == ([], {gone: False})
