"""WebDataset shards as sources: whole ones, hostile ones and damaged ones."""

from __future__ import annotations

import io
import json
import random
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipelines.core.errors import BadPart, SourceError
from pipelines.ingest.sources import Item, Rejected, SourceConfig, list_items, parse, read_bytes

CONFIG = SourceConfig()
Content = bytes | str | tarfile.TarInfo


def pack(path: Path, members: Iterable[tuple[str, Content]], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tuple[str, tarfile.TarInfo]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return name, info


def read(path: Path, config: SourceConfig = CONFIG) -> tuple[list[Item], list[Rejected]]:
    found = list(list_items([str(path)], config))
    return [f for f in found if isinstance(f, Item)], [f for f in found if isinstance(f, Rejected)]


def ids(items: list[Item]) -> list[str]:
    return [item.document_id for item in items]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    return tmp_path / "set" / "shard.tar"


SIDE_CAR = json.dumps({"caption": "Tom", "year": 2020, "image": "ignored.png"})
GOOD = [("first.png", b"1"), ("last.png", b"2")]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_one_name_are_a_document(shard: Path, form: int) -> None:
    members = [
        special("./pets", tarfile.DIRTYPE),
        ("./pets/0001.jpg", b"cat"),
        ("./pets/0001.txt", "A cat.\n\nAsleep."),
        ("./pets/0001.json", SIDE_CAR),
        ("./pets/0001.cls", "7"),
        ("pets/0002.left.PNG", b"dog"),
        ("pets/0002.right.webp", b"another"),
        ("pets/0002.note.txt", "Two dogs."),
        ("0003.txt", "No picture."),
        ("._0003.png", b"a Mac's"),
    ]
    items, rejected = read(pack(shard, members, form))
    assert not rejected
    documents = [parse(item, CONFIG).document for item in items]
    assert ids(items) == ["set/shard.tar/pets/0001", "set/shard.tar/pets/0002", "set/shard.tar/0003"]
    assert [passage.text for passage in documents[0].passages] == ["Tom", "A cat.", "Asleep."]
    assert dict(documents[0].metadata) == {"year": 2020}
    assert documents[0].captions == ("Tom",)
    assert {passage.images for passage in documents[1].passages} == {(0, 1)}
    shown = [[read_bytes(address, 100) for address in document.images] for document in documents]
    assert shown == [[b"cat"], [b"dog", b"another"], []]
    assert items[0].inputs == documents[0].images


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_beyond_ascii_are_read(shard: Path, form: int) -> None:
    names = ["d/" * 90 + "long.png", "图片/散热器.png"]
    items, _ = read(pack(shard, [(name, b"x") for name in names], form))
    assert ids(items) == ["set/shard.tar/" + name.removesuffix(".png") for name in names]


def test_a_json_may_name_the_document_and_hold_llavas_conversation(shard: Path) -> None:
    said = {"id": "c1", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
    [item], _ = read(pack(shard, [("1.png", b"x"), ("1.json", json.dumps(said))]))
    assert item.document_id == "c1"
    assert [passage.text for passage in parse(item, CONFIG).document.passages] == ["What?"]


def test_shards_of_one_name_in_two_folders_are_apart(shard: Path) -> None:
    other = shard.parent.parent / "val" / "shard.tar"
    other.parent.mkdir()
    found = list_items([str(pack(shard, GOOD)), str(pack(other, GOOD))], CONFIG)
    assert [item.document_id for item in found] == [
        "set/shard.tar/first",
        "set/shard.tar/last",
        "val/shard.tar/first",
        "val/shard.tar/last",
    ]


def test_a_document_stays_as_it_was_when_another_is_appended(shard: Path) -> None:
    before = read(pack(shard, GOOD))[0]
    assert read(pack(shard, [*GOOD, ("new.png", b"3")]))[0][:2] == before


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("/etc/x.png", b"x"), "leads out of the archive"),
        (("a/../../x.png", b"x"), "leads out of the archive"),
        (("./../x.png", b"x"), "leads out of the archive"),
        (special("x.png", tarfile.SYMTYPE, "/etc/passwd"), "x.png: is a link"),
        (special("x.png", tarfile.LNKTYPE, "first.png"), "x.png: is a link"),
        (special("x.png", tarfile.FIFOTYPE), "x.png: is no plain file"),
        (special("x.png", tarfile.CHRTYPE), "x.png: is no plain file"),
        (("x.png", b""), "x.png: is empty"),
        (("x.png", b"x" * 2001), "x.png: has 2,001 bytes, more than the 2,000 allowed"),
        (("x.txt", b"x" * 1001), "x.txt: has 1,001 bytes, more than the 1,000 allowed"),
        (("x.txt", b"\xff"), "x.txt: its text: not UTF-8"),
        (("x.json", "{"), "x.json: broken JSON"),
        (("x.json", '{"tags": ["x"]}'), "x.json: metadata field 'tags' is a list"),
        (("x.json", "[]"), "x.json: JSON is a list"),
        (("x.avif", b"x"), "holds neither a picture nor text"),
        (("x" * 2000 + ".png", b"x"), "more than 1024 bytes"),
        (("a\x1b[31m.png", b"x"), "invisible or broken characters"),
    ],
)
def test_a_bad_member_is_rejected_and_its_neighbours_are_read(
    shard: Path, member: tuple[str, Content], reason: str
) -> None:
    pack(shard, [GOOD[0], member, GOOD[1]])
    items, [rejected] = read(shard, SourceConfig(max_file_bytes=2000, max_row_bytes=1000))
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]
    assert rejected.reason.startswith("shard.tar")
    assert rejected.stage == "list"
    assert reason in rejected.reason
    (rejected.document_id + rejected.source + rejected.reason).encode()


def test_a_name_that_is_not_utf8_is_rejected_alone(shard: Path) -> None:
    with tarfile.open(shard, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("first.png", "ä.png", "last.png"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    items, [rejected] = read(shard)
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]
    assert "not UTF-8; rename it" in rejected.reason


def test_a_refused_member_leaves_the_rest_of_its_document(shard: Path) -> None:
    members = [("1.png", b"x"), special("1.jpg", tarfile.SYMTYPE, "y"), ("1.txt", "one")]
    [item], [rejected] = read(pack(shard, members))
    assert rejected.document_id == item.document_id == "set/shard.tar/1"
    assert len(item.inputs) == 1
    assert parse(item, CONFIG).document.passages[0].text == "one"


@pytest.mark.parametrize(
    "told",
    ['{"id":"AC-120","tenant":"acme","caption":"T', '{"id": 1.5}', special("1.json", tarfile.SYMTYPE)[1]],
)
def test_a_json_that_does_not_tell_whose_document_it_is_costs_the_document(
    shard: Path, told: Content
) -> None:
    items, [rejected] = read(pack(shard, [("1.png", b"x"), ("1.json", told), ("1.txt", "one"), *GOOD]))
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]
    assert "shard.tar/1.json: " in rejected.reason
    assert (
        f"/{rejected.document_id}" in rejected.source
    )  # so it could be any document of the shard: none is gone


def test_a_field_that_cannot_be_kept_leaves_the_document_its_id_and_tenant(shard: Path) -> None:
    told = '{"id": "AC-120", "tenant": "acme", "face_bboxes": [[0, 1]]}'
    [item], [rejected] = read(pack(shard, [("1.png", b"x"), ("1.json", told), ("1.txt", "one")]))
    assert (item.document_id, item.tenant) == ("AC-120", "acme")
    assert [passage.text for passage in parse(item, CONFIG).document.passages] == ["one"]
    assert "metadata field 'face_bboxes' is a list" in rejected.reason


def test_a_name_that_comes_back_later_is_another_document_of_the_same_id(shard: Path) -> None:
    items, rejected = read(pack(shard, [*GOOD, ("first.txt", "again")]))
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last", "set/shard.tar/first"]
    assert rejected == []


def test_texts_beyond_a_rows_bound_are_refused_and_leave_the_rest(shard: Path) -> None:
    members = [("1.png", b"x"), ("1.a.txt", "a" * 600), ("1.b.txt", "b" * 600)]
    [item], [rejected] = read(pack(shard, members), SourceConfig(max_row_bytes=1000))
    assert "1.b.txt: has 600 bytes, more than the 400 allowed" in rejected.reason
    assert len(parse(item, CONFIG).document.passages) == 1


def test_a_thousand_members_are_enough_for_a_document(shard: Path) -> None:
    [item], [rejected] = read(pack(shard, [(f"x.{n}.png", b"x") for n in range(1200)]))
    assert len(item.inputs) == 1000
    assert "more than 1,000" in rejected.reason


def headers(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [member.offset for member in archive]


def test_a_damaged_header_costs_its_member(shard: Path) -> None:
    pack(shard, [GOOD[0], ("x.png", b"x" * 2000), GOOD[1]], tarfile.USTAR_FORMAT)
    raw = bytearray(shard.read_bytes())
    raw[headers(shard)[1] + 3] ^= 1
    shard.write_bytes(raw)
    items, [rejected] = read(shard)
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]
    assert "at byte 1,024: is no tar header, or a damaged one" in rejected.reason


def test_a_header_that_was_wiped_out_costs_its_member(shard: Path) -> None:
    pack(shard, [GOOD[0], ("x.png", b"x" * 2000), GOOD[1]], tarfile.USTAR_FORMAT)
    raw = bytearray(shard.read_bytes())
    raw[headers(shard)[1] : headers(shard)[1] + 512] = bytes(512)
    shard.write_bytes(raw)
    items, [rejected] = read(shard)
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]
    assert "at byte 1,024: is empty, but the archive goes on" in rejected.reason


def test_archives_that_were_joined_are_read_to_the_end(shard: Path, tmp_path: Path) -> None:
    second = pack(tmp_path / "second.tar", [("more.png", b"3")])
    shard.write_bytes(pack(shard, GOOD).read_bytes() + second.read_bytes())
    items, [rejected] = read(shard)
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last", "set/shard.tar/more"]
    assert "the archive goes on" in rejected.reason


def test_a_shard_that_was_cut_off_says_so(shard: Path) -> None:
    pack(shard, [GOOD[0], ("x.png", b"x" * 5000)])
    shard.write_bytes(shard.read_bytes()[:3000])
    items, [rejected] = read(shard)
    assert ids(items) == ["set/shard.tar/first"]
    assert "says 5,000 bytes, but the file ends before" in rejected.reason


def test_a_header_of_ten_megabytes_of_attributes_is_not_read(shard: Path) -> None:
    info = tarfile.TarInfo("x.png")
    info.pax_headers = {"comment": "c" * 10_000_000}
    items, [rejected] = read(pack(shard, [GOOD[0], ("x.png", info), GOOD[1]]))
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]
    assert "name or attributes of 10,0" in rejected.reason


def test_attributes_of_many_records_cost_no_quadratic_time(shard: Path) -> None:
    record = b"6 a=b\n"
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(record) * 10_000
    with tarfile.open(shard, "w") as archive:
        for _ in range(50):
            archive.addfile(info, io.BytesIO(record * 10_000))
    start = time.process_time()
    assert read(shard) == ([], [])
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "attributes", [b"9999 path=x\n", b"0 a=b\n", b"x path=y\n", b"5 a\n", b"12 size=-1\n", b"11 size=x\n"]
)
def test_broken_attributes_cost_their_member(shard: Path, attributes: bytes) -> None:
    info = tarfile.TarInfo("PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(attributes)
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(attributes))
        for name in ("x.png", "last.png"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    items, [_] = read(shard)
    assert ids(items) == ["set/shard.tar/last"]


@pytest.mark.parametrize("field", [b"\x80" + b"\xff" * 11, b"\xff" * 12, b"7_7        \0", b"-1         \0"])
def test_a_size_that_no_file_has_costs_its_member(shard: Path, field: bytes) -> None:
    pack(shard, [GOOD[0], ("x.png", b"x"), GOOD[1]], tarfile.USTAR_FORMAT)
    raw = bytearray(shard.read_bytes())
    start = headers(shard)[1]
    raw[start + 124 : start + 136] = field
    raw[start + 148 : start + 156] = b" " * 8
    raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    shard.write_bytes(raw)
    items, [_] = read(shard)
    assert ids(items) == ["set/shard.tar/first", "set/shard.tar/last"]


def test_a_mutated_shard_never_raises(shard: Path) -> None:
    pack(shard, [("d/" * 80 + "a.png", b"x" * 600), ("a.txt", "t"), ("a.json", SIDE_CAR), *GOOD])
    whole = shard.read_bytes()
    dice = random.Random(7)
    for _ in range(500):
        raw = bytearray(whole[: dice.choice((len(whole), dice.randrange(1, len(whole))))])
        for _ in range(dice.randrange(1, 12)):
            raw[dice.randrange(len(raw))] = dice.randrange(256)
        shard.write_bytes(raw)
        for item in read(shard)[0]:
            for address in parse(item, CONFIG).document.images:
                read_bytes(address, 10_000)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(b"not a tar at all" * 200, "is no tar header"), (b"short", "ends in the middle of a header")],
)
def test_a_file_that_is_no_tar_is_one_rejection(shard: Path, raw: bytes, reason: str) -> None:
    shard.write_bytes(raw)
    items, [rejected] = read(shard)
    assert items == []
    assert reason in rejected.reason


def test_a_compressed_shard_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for name in ("x.tar.gz", "x.tgz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
        with pytest.raises(SourceError, match="gunzip it first"):
            read(tmp_path / name)


def test_a_picture_of_a_shard_that_changed_is_read_within_its_bounds(shard: Path) -> None:
    [item, _], _ = read(pack(shard, GOOD))
    shard.write_bytes(b"short")
    with pytest.raises(BadPart, match="ends before byte"):
        read_bytes(item.inputs[0], 100)
    with pytest.raises(BadPart, match="more than the 10 allowed"):
        read_bytes(f"{shard}#bytes=0+11", 10)
