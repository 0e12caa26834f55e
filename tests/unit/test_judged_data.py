"""benchmarks/data: packages are checked and harmless, and what is built of them can be ingested and asked."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import fake_packages as fake
import pytest

from benchmarks.data import build, easy_vqa, emoji, gcompris, gimp, judged, packages, plates
from benchmarks.data.packages import Package, PackageError
from benchmarks.data.rcc import BadResource, read_rcc
from pipelines.evaluate.queries import read_queries
from pipelines.evaluate.questions import read_questions

ANY = "0" * 64
BOARDS = 6
ENGLISH = {
    "title": "Crop",
    "section": "Options",
    "paragraph": "The crop tool removes the borders of an image, number",
}
CHINESE = {"title": "裁剪", "section": "选项", "paragraph": "裁剪工具用来去掉图像的边缘，使它更小，编号"}


def everything(name: str) -> bool:
    return True


# Packages.


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Path:
    """A folder; what lies in it is what `npm pack` gives."""
    shelf, programs = tmp_path / "shelf", tmp_path / "bin"
    shelf.mkdir()
    programs.mkdir()
    (programs / "npm").write_text(f'#!/bin/sh\ntest "$3" = thing@1.0 && cp {shelf}/* .\n')
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return shelf


def test_a_package_is_fetched_once_and_kept(tmp_path, npm) -> None:
    archive = fake.tgz({"a": b"1"})
    (npm / "whatever-it-is-called.tgz").write_bytes(archive)
    known = fake.put(tmp_path / "elsewhere", "thing", archive)
    found = packages.fetch(known, tmp_path / "downloads")
    (npm / "whatever-it-is-called.tgz").unlink()
    assert packages.fetch(known, tmp_path / "downloads") == found
    assert dict(packages.members(found, everything)) == {"a": b"1"}


def test_another_archive_than_the_known_one_is_refused_and_not_kept(tmp_path, npm) -> None:
    (npm / "thing.tgz").write_bytes(fake.tgz({"a": b"1"}))
    with pytest.raises(PackageError, match="SHA-256"):
        packages.fetch(Package("npm", "thing", "1.0", ANY), tmp_path / "downloads")
    assert not list((tmp_path / "downloads").iterdir())


def test_an_archive_that_was_changed_later_is_refused(tmp_path) -> None:
    known = fake.put(tmp_path, "thing", fake.tgz({"a": b"1"}))
    (tmp_path / known.file_name).write_bytes(fake.tgz({"a": b"2"}))
    with pytest.raises(PackageError, match="SHA-256"):
        packages.fetch(known, tmp_path)


def test_a_version_that_is_not_there_says_so(tmp_path, npm) -> None:
    with pytest.raises(PackageError, match=r"npm pack --silent thing@2\.0 failed"):
        packages.fetch(Package("npm", "thing", "2.0", ANY), tmp_path / "downloads")


def test_a_client_that_is_not_there_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="apt-get is not here"):
        packages.fetch(Package("debian", "thing", "1.0", ANY), tmp_path)


@pytest.mark.parametrize("make", [fake.tgz, fake.whl])
@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", "a\\..\\up"])
def test_a_name_that_leads_out_is_refused(tmp_path, make, name) -> None:
    file = tmp_path / f"hostile.{make.__name__}"
    file.write_bytes(make({"good/a": b"1", name: b"2"}))
    with pytest.raises(PackageError, match="leads out"):
        packages.unpack(file, "good", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bound", ["MAX_MEMBER_BYTES", "MAX_MEMBERS", "MAX_BYTES"])
def test_an_archive_beyond_a_bound_is_refused(tmp_path, monkeypatch, bound) -> None:
    (tmp_path / "a.tgz").write_bytes(fake.tgz({"x": b"12", "y": b"34"}))
    monkeypatch.setattr(packages, bound, 1)
    with pytest.raises(PackageError):
        list(packages.members(tmp_path / "a.tgz", everything))


def test_what_is_not_wanted_counts_but_is_not_read(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.tgz").write_bytes(fake.tgz({"x": b"1", "y": b"23456"}))
    monkeypatch.setattr(packages, "MAX_MEMBER_BYTES", 2)
    assert dict(packages.members(tmp_path / "a.tgz", "x".__eq__)) == {"x": b"1"}
    monkeypatch.setattr(packages, "MAX_BYTES", 5)
    with pytest.raises(PackageError, match="more files or bytes"):
        list(packages.members(tmp_path / "a.tgz", "x".__eq__))


def with_links(files: dict[str, bytes], links: dict[str, tuple[bytes, str]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, (kind, target) in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_a_link_to_a_file_beside_it_becomes_that_file(tmp_path) -> None:
    soft = tarfile.SYMTYPE
    links = {"p/deep/b": (soft, "../a"), "p/c": (soft, "deep/b"), "p/gone": (soft, "nothing")}
    (tmp_path / "a.tgz").write_bytes(with_links({"p/a": b"1"}, links))
    out = packages.unpack(tmp_path / "a.tgz", "p", tmp_path / "out")
    found = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert found == {"a", "deep/b", "c"}
    assert {(out / name).read_bytes() for name in found} == {b"1"}
    assert not any(file.is_symlink() for file in out.rglob("*"))


def test_other_links_and_devices_are_passed_over(tmp_path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    links = {
        "p/up": (tarfile.SYMTYPE, "../../secret"),
        "p/absolute": (tarfile.SYMTYPE, str(secret)),
        "p/folder": (tarfile.SYMTYPE, ".."),
        "p/ring": (tarfile.SYMTYPE, "gnir"),
        "p/gnir": (tarfile.SYMTYPE, "ring"),
        "p/hard": (tarfile.LNKTYPE, str(secret)),
        "p/pipe": (tarfile.FIFOTYPE, ""),
    }
    (tmp_path / "a.tgz").write_bytes(with_links({"p/folder/a": b"1"}, links))
    out = packages.unpack(tmp_path / "a.tgz", "p", tmp_path / "out")
    assert [file.relative_to(out).as_posix() for file in out.rglob("*")] == ["folder", "folder/a"]


@pytest.mark.parametrize("suffix", ["tgz", "whl"])
def test_what_is_no_archive_is_refused(tmp_path, suffix) -> None:
    whole = (fake.tgz if suffix == "tgz" else fake.whl)({"a": random.Random(0).randbytes(10_000)})
    for number, data in enumerate((b"", b"words", whole[:-5000])):
        (tmp_path / f"{number}.{suffix}").write_bytes(data)
        with pytest.raises(PackageError, match="cannot be read"):
            list(packages.members(tmp_path / f"{number}.{suffix}", everything))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_a_debian_package_is_read(tmp_path) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN" / "control").write_text(
        "Package: thing\nVersion: 1.0\nArchitecture: all\nMaintainer: me <m@a.example>\nDescription: it\n"
    )
    (root / "usr" / "share").mkdir(parents=True)
    (root / "usr" / "share" / "a").write_text("1")
    file = tmp_path / "thing.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", root, file], check=True, capture_output=True)
    assert (packages.unpack(file, "usr/share", tmp_path / "out") / "a").read_text() == "1"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(PackageError):
        list(packages.members(file, everything))


# Splits.


def test_a_side_depends_on_the_key_alone(tmp_path) -> None:
    keys = [f"key-{number}" for number in range(1000)]
    rows = [judged.Question(key, {"id": key}) for key in keys]
    for name, asked in {"all": rows, "fewer": rows[::-3]}.items():
        (tmp_path / name).mkdir()
        judged.write(tmp_path / name, [], asked)
    sides = {
        name: {split: ids(tmp_path / name / f"{split}.jsonl") for split in judged.SPLITS}
        for name in ("all", "fewer")
    }
    assert not sides["all"]["dev"] & sides["all"]["test"]
    assert sides["all"]["dev"] | sides["all"]["test"] == set(keys)
    assert 430 < len(sides["all"]["dev"]) < 570
    for split in judged.SPLITS:
        assert sides["fewer"][split] <= sides["all"][split]


def test_the_rule_of_the_split_is_the_one_that_figures_were_taken_with() -> None:
    # printf a | sha256sum begins with ca, of b with 3e, of c with 2e, of d with 18, of 1 with 6b.
    assert [judged.split_of(key) for key in "abcd1"] == ["dev", "dev", "dev", "dev", "test"]


def ids(file: Path) -> set[str]:
    return {json.loads(line)["id"] for line in file.read_text("utf-8").splitlines()}


# Qt's resources.


@pytest.mark.parametrize("flags", [0, 1])
def test_resources_are_read(flags) -> None:
    files = {"a/b.txt": b"one", "a/深/c.txt": b"two" * 100, "d": b""}
    assert read_rcc(fake.rcc(files, flags)) == files


@pytest.mark.parametrize("flags", [0, 1])
def test_resources_that_are_cut_off_are_refused(flags) -> None:
    whole = fake.rcc({"a/b.txt": b"one", "c": b"two"}, flags)
    for length in range(len(whole) - 22):  # the last node's time is not read
        with pytest.raises(BadResource):
            read_rcc(whole[:length])


def test_hostile_resources_are_refused(monkeypatch) -> None:
    with pytest.raises(BadResource, match="zstd"):
        read_rcc(fake.rcc({"a": b"x"}, flags=4))
    monkeypatch.setattr("benchmarks.data.rcc.MAX_FILE_BYTES", 1000)
    with pytest.raises(BadResource, match="too large"):
        read_rcc(fake.rcc({"a": bytes(100_000)}, flags=1))
    ring = bytearray(fake.rcc({"a/b": b"x"}))
    ring[-44 + 10 : -44 + 14] = bytes(4)  # the first child of a is the root
    with pytest.raises(BadResource, match="no tree"):
        read_rcc(bytes(ring))


# What is built.


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    downloads = tmp_path / "downloads"
    monkeypatch.setattr(emoji, "PACKAGES", fake.emoji_packages(downloads))
    monkeypatch.setattr(easy_vqa, "PACKAGE", fake.put(downloads, "easy-vqa", fake.easy_vqa(), "pypi"))
    boards = {path: data for number in range(BOARDS) for path, data in fake.board(number).items()}
    resources = fake.tgz({"./usr/share/gcompris-qt/rcc/details.rcc": fake.rcc(boards)})
    monkeypatch.setattr(gcompris, "PACKAGE", fake.put(downloads, "gcompris", resources))
    manuals = {}
    for language, words in {"en": ENGLISH, "zh": CHINESE}.items():
        pages = 6 if language == "en" else 3
        files = {f"./help/{name}": data for name, data in fake.manual(pages, words).items()}
        manuals[language] = fake.put(downloads, f"manual-{language}", fake.tgz(files)), "help"
    monkeypatch.setattr(gimp, "MANUALS", manuals)
    monkeypatch.setattr(plates, "MANY", 3)
    return tmp_path


@pytest.mark.parametrize("name", build.BUILDERS)
def test_what_is_built_can_be_ingested_and_asked(work, name) -> None:
    folder = build.build(name, work)
    documents = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
    known = {one["id"] for one in documents}
    assert len(known) == len(documents) > 1
    pictures = [one["image"] for one in documents if "image" in one]
    assert all((folder / picture).is_file() for picture in pictures)
    assert len(pictures) == len(documents) or name == "plates"  # which has texts, too
    task = build.BUILDERS[name].TASK
    asked = [
        one
        for split in judged.SPLITS
        for one in (
            read_queries(folder / f"{split}.jsonl", {})
            if task == "retrieval"
            else read_questions(folder / f"{split}.jsonl", {})
        )
    ]
    assert len({one.id for one in asked}) == len(asked) > 1
    for one in asked:
        if task == "retrieval":
            assert one.relevant
            assert set(one.relevant) <= known
        elif task == "grounding":
            assert {box.picture.removesuffix("#img-0") for box in one.boxes} <= known
        else:
            assert one.answers == ("red",)


def test_one_that_is_there_is_left_and_told(work, capsys) -> None:
    build.main([str(work), "gcompris"])
    (work / "gcompris" / "mine").write_text("x")
    build.main([str(work), "gcompris"])
    assert (work / "gcompris" / "mine").exists()
    first, second = capsys.readouterr().out.split("licence: GPL-3")[:2]
    assert f"grounding, {BOARDS} documents" in first
    assert f"grounding, {BOARDS} documents" in second
    with pytest.raises(SystemExit):
        build.main([str(work), "gcompriss"])


def test_a_set_that_was_cut_short_is_built_again(work) -> None:
    (work / "gcompris.part" / "pictures").mkdir(parents=True)
    assert judged.sizes(build.build("gcompris", work))["manifest"] == BOARDS
    assert not (work / "gcompris.part").exists()


def test_a_detail_is_boxed_around_its_middle(tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    files = fake.board(7)
    qml = files[f"{gcompris._BESIDE}board/board7_0.qml"].decode()
    document, questions = gcompris.board("board7_0", qml, files, tmp_path)
    assert document["text"] == "Castle 7"
    assert [one.row["boxes"][0]["xyxy"] for one in questions] == [[90, 40, 110, 60], [0, 80, 20, 100]]
    assert {one.key for one in questions} == {"board7_0"}
    assert questions[0].row["query"] == "Where in the picture of Castle 7 is this detail?"


def test_a_page_is_read_as_headings_and_paragraphs_with_their_pictures() -> None:
    page = fake.PAGE.format(number=3, **ENGLISH).encode()
    tool, icon, shared = "images/tool/3.png", "images/icon.png", "images/shared.png"
    words = ENGLISH["paragraph"]
    assert gimp.passages(page) == [
        gimp.Passage("heading", "Crop 3", 1, [tool, icon]),
        gimp.Passage("paragraph", f"{words} 3", 1, [icon]),
        gimp.Passage("heading", "Crop 3: Options", 2, [shared]),
        gimp.Passage("paragraph", f"{words} Options 3", 2, [shared]),
    ]


def test_manuals_ask_for_large_pictures_of_one_section_in_both_languages(work) -> None:
    folder = build.build("gimp", work)
    assert ids(folder / "manifest.jsonl") == {f"tool/{number}.png" for number in range(6)}
    asked = {split: ids(folder / f"{split}.jsonl") for split in judged.SPLITS}
    translated = {f"zh-page-{number}-0-heading" for number in range(3)}
    assert asked["dev"] | asked["test"] == translated | {f"en-page-{n}-0-heading" for n in range(3, 6)}
    for split, found in asked.items():  # by the page, in either language
        pages = {one.split("-", 1)[1].removesuffix("-0-heading") for one in found}
        assert {judged.split_of(page) for page in pages} <= {split}


def test_a_chinese_page_that_is_not_translated_is_not_asked_of() -> None:
    english = [gimp.Passage("heading", "Crop", 1, ["images/a.png"])]
    mixed = [gimp.Passage("paragraph", "Read more about it in the chapter 第 2.7 节", 1, ["images/a.png"])]
    for found in (english, mixed):
        assert not gimp.questions("zh", {"page": found}, {"images/a.png"})
    assert gimp.questions("en", {"page": english}, {"images/a.png"})


def section(*paragraphs: gimp.Passage, title: str) -> list[gimp.Passage]:
    pictures = [picture for one in paragraphs for picture in one.pictures]
    return [
        gimp.Passage("heading", title, 1),
        gimp.Passage("heading", f"{title}: Tips", 2, pictures),
        *paragraphs,
    ]


def test_one_kind_of_text_is_asked_of_a_section() -> None:
    paragraphs = [
        gimp.Passage(
            "paragraph", f"{number}: it cuts away what is outside of the frame", 2, [f"images/{number}"]
        )
        for number in range(2)
    ]
    pages = {f"page{number}": section(*paragraphs, title=f"Crop {number}") for number in range(20)}
    for found in pages.values():  # no words stand twice
        found[2:] = [
            gimp.Passage(one.kind, f"{found[0].text} {one.text}", 2, one.pictures) for one in paragraphs
        ]
    asked = gimp.questions("en", pages, {"images/0", "images/1"})
    kinds = {tuple(one.row["id"].rsplit("-", 1)[1] for one in of_section) for of_section in asked.values()}
    assert kinds == {("heading",), ("paragraph", "paragraph")}
    assert asked.keys() == {(page, 2) for page in pages}


def test_a_document_has_what_is_said_near_its_picture_and_was_not_asked() -> None:
    def paragraphs(word: str) -> list[gimp.Passage]:
        return [
            gimp.Passage("paragraph", f"{word} first", 2, ["images/a"]),
            gimp.Passage("paragraph", f"{word} between", 2),
            gimp.Passage("paragraph", f"{word} of it", 2, ["images/b"]),
            gimp.Passage("paragraph", f"{word} after", 2),
            gimp.Passage("paragraph", f"{word} of the next", 2, ["images/c"]),
        ]

    pages = {
        "en": {"page": section(*paragraphs("said"), title="Crop")},
        "zh": {"page": section(*paragraphs("说"), title="裁剪")},
    }
    whole = gimp.document("images/b", pages, set())
    assert (whole["id"], whole["image"]) == ("b", "images/b")
    assert whole["text"].split("\n\n") == [
        "Crop", "Crop: Tips", "said between", "said of it", "said after",
        "裁剪", "裁剪: Tips", "说 between", "说 of it", "说 after",
    ]  # fmt: skip
    asked = gimp.document("images/b", pages, {"Crop: Tips", "said of it"})["text"].split("\n\n")
    assert asked == [one for one in whole["text"].split("\n\n") if one not in ("Crop: Tips", "said of it")]


def test_a_page_names_no_picture_outside_the_manual(tmp_path) -> None:
    manual = tmp_path / "manual"
    (manual / "images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(fake.png())
    (manual / "images" / "a.png").write_bytes(fake.png())
    names = ["images/../../secret.png", str(tmp_path / "secret.png"), "images/gone.png", "images/a.png"]
    pages = {"page": [gimp.Passage("heading", "Crop", 1, names)]}
    assert gimp.candidates(pages, manual) == ["images/a.png"]


def test_emoji_that_training_saw_are_candidates_only(work) -> None:
    folder = build.build("emoji", work)
    held_out = {one.id for one in emoji.read_concepts(work) if one.fold == 0}
    assert len(held_out) == 3  # ranks 0, 5 and 10 of 12
    assert len(ids(folder / "manifest.jsonl")) == fake.CONCEPTS
    kinds = ("en", "zh", "twitter", "apple", "facebook")
    sides = [ids(folder / f"{split}.jsonl") for split in judged.SPLITS]
    assert sides[0] | sides[1] == {f"{concept}-{kind}" for concept in held_out for kind in kinds}
    assert not {one.split("-")[0] for one in sides[0]} & {one.split("-")[0] for one in sides[1]}
