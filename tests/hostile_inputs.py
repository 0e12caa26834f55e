"""Writes hostile and broken files and rows of every form that is read, the same for a seed."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bombs import BOMBS, encoded
from fakes import photograph
from hostile_corpus import Expected, HostileCorpus, refused

TWINS = 10_000
_CUTS = _FUZZES = 8  # of each form
_MIN_CUT = 16  # a CSV that ends in its header is an empty one
_FORMS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP"}
_OTHERS = {
    "zip": b"PK\3\4 a zip", "pdf": b"%PDF-1.7\n", "html": b"<!DOCTYPE html><html>", "zeros": bytes(4096),
    "lfs": b"version https://git-lfs.github.com/spec/v1", "svg": b"<svg/>", "text": "钻孔间距".encode(),
}  # fmt: skip
_TEXTS = {
    "latin1": "Maß für Maß".encode("latin-1"), "gb18030": "钻孔间距".encode("gb18030"), "void": b"",
    "sjis": "穴の間隔".encode("shift-jis"), "binary": bytes(range(256)), "huge": b"word " * 2_000_000,
}  # fmt: skip
_GOOD_TEXTS = {
    "utf8": "Maß".encode(), "bom": "Maß".encode("utf-8-sig"), "utf16": "钻孔间距".encode("utf-16"),
    "nul": b"a\0b", "crlf": b"one\r\n\r\ntwo\r\rthree",
}  # fmt: skip
_SIDE_CARS = {
    "cut": '{"caption": "To', "nan": '{"year": NaN}', "list": "[1, 2]", "deep": "[" * 100_000,
    "digits": f'{{"n": {"9" * 5000}}}', "nested": '{"where": {"page": 1}}', "empty": "",
}  # fmt: skip
_BROKEN_ROWS = (
    '{"id": "x", "text": "cut', "null", "[]", '"text"', "{}", '{"id": "only an id"}', '{"text": "no id"}',
    '{"id": NaN, "text": "t"}', '{"id": [1], "text": "t"}', '{"id": true, "text": "t"}', "[" * 100_000,
    f'{{"id": "x", "n": {"9" * 5000}, "text": "t"}}', '{"id": "x", "text": {"a": 1}}',
    '{"id": "x", "image": 7}', '{"id": "x", "images": [7]}', '{"id": "x", "text": "t", "metadata": [1]}',
    '{"id": "x", "text": "t", "tags": ["a"]}', '{"id": "x", "text": "t", "n": 99999999999999999999}',
    '{"id": "a\\u200bb", "text": "t"}', '{"id": "\\ud800", "text": "t"}', '{"id": "x", "conversations": 1}',
    json.dumps({"id": "i" * 2000, "text": "t"}), json.dumps({"id": "x", "text": "t" * 2**20}),
)  # fmt: skip
_NOT_UTF8 = b'{"id": "x", "text": "Ma\xdf"}'
_LOST_PICTURES = {
    "gone": "gone.png", "out": "../../../etc/passwd", "root": "/etc/passwd", "web": "https://x.invalid/a.png",
    "bucket": "s3://bucket/a.png", "nul": "a\0.png", "dir": "files", "host": "file://host/a.png",
}  # fmt: skip
_LOCK = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00><00>]"


def write_hostile_corpus(root: Path, seed: int = 0) -> HostileCorpus:
    """Write it below the new folder `root`."""
    root.mkdir()
    maker = _Maker(root, random.Random(seed))
    maker.folder()
    maker.pages()
    maker.rows()
    maker.tables()
    maker.shard()
    maker.damaged_manifests()
    return HostileCorpus(tuple(maker.sources), tuple(maker.expected), tuple(maker.damaged))


class _Maker:
    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root, self.chance = root, chance
        self.sources: list[str] = []
        self.expected: list[Expected] = []
        self.damaged: list[str] = []
        self.picture = encoded(photograph(99, 48), "PNG")

    def expect(self, *expected: Expected) -> None:
        self.expected += expected

    def source(self, name: str, data: bytes) -> None:
        (self.root / name).write_bytes(data)
        self.sources.append(str(self.root / name))

    def cut(self, data: bytes) -> bytes:
        return data[: self.chance.randrange(_MIN_CUT, len(data) * 4 // 5)]

    def fuzzed(self, data: bytes) -> bytes:
        """With some bytes of its first quarter and of anywhere changed."""
        mutated = bytearray(data)
        for _ in range(self.chance.randrange(1, 12)):
            mutated[self.chance.randrange(max(1, len(data) // self.chance.choice((1, 4))))] = (
                self.chance.randrange(256)
            )
        return bytes(mutated)

    def folder(self) -> None:
        """Pictures, texts and PDFs."""
        folder = self.root / "files"
        folder.mkdir()
        self.sources.append(str(folder))

        def put(name: str, data: bytes, outcome: str, stage: str = "", letters: int = 0) -> None:
            (folder / name).write_bytes(data)
            self.expect(Expected(f"files/{name}", outcome, stage, letters))  # type: ignore[arg-type]

        for number, (suffix, form) in enumerate(_FORMS.items()):
            whole = encoded(photograph(number, 64), form)
            put(f"whole.{suffix}", whole, "good")
            put(f"empty.{suffix}", b"", "refused", "parse", 1)
            for n in range(_CUTS):
                put(f"cut-{n}.{suffix}", self.cut(whole), "refused", "decode", 1)
            for n in range(_FUZZES):
                put(f"fuzzed-{n}.{suffix}", self.fuzzed(whole), "either")
        for name, data in _OTHERS.items():
            put(f"really-{name}.png", data, "refused", "decode", 1)
        for name, (data, _) in BOMBS.items():
            put(f"bomb {name}.jpg", data, "refused", "decode", 1)
        for name, data in _TEXTS.items():
            put(f"{name}.txt", data, "refused", "parse", 1)
        for name, data in _GOOD_TEXTS.items():
            put(f"{name}.md", data, "good")
        for name, side_car in _SIDE_CARS.items():
            # One that tells no id and tenant leaves it open whose the picture is.
            outcome = "good" if name == "nested" else "refused"
            put(f"beside-{name}.png", self.picture, outcome, "list", 1)
            (folder / f"beside-{name}.json").write_text(side_car)
        put("field.png", self.picture, "refused", "store", 2)  # its picture and its text
        (folder / "field.json").write_text(json.dumps({"text": "t", "note": "n" * 100_000}))
        self.pdfs(put)
        self.odd_files(folder)

    def pdfs(self, put: Any) -> None:
        whole = encoded(photograph(50, 64), "PDF")
        put("whole.pdf", whole, "good")
        put("empty.pdf", b"", "refused", "parse", 1)
        lock = _LOCK % (b"11" * 32, b"22" * 32)
        put("locked.pdf", whole.replace(b"trailer\n<<", b"trailer\n<<" + lock), "refused", "parse", 1)
        for n in range(3):
            put(f"cut-{n}.pdf", self.cut(whole), "either")
            put(f"fuzzed-{n}.pdf", self.fuzzed(whole), "either")

    def odd_files(self, folder: Path) -> None:
        """Links, pipes, folders and names that are none."""
        (folder / "link-out.png").symlink_to("/etc/passwd")
        (folder / "link-to-nothing.png").symlink_to("nothing.png")
        (folder / "link-to-itself.png").symlink_to("link-to-itself.png")
        os.mkfifo(folder / "pipe.png")
        (folder / "folder.png").mkdir()
        names = ["link-out.png", "link-to-nothing.png", "link-to-itself.png", "pipe.png", "folder.png"]
        if os.uname().sysname == "Linux":  # a Mac refuses such a name
            Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(self.picture)
            names.append("\\xff.png")
        self.expect(*(refused(f"files/{name}", "list") for name in names))

    def pages(self) -> None:
        folder = self.root / "pages"
        folder.mkdir()
        self.sources.append(str(folder))
        (folder / "a.png").write_bytes(self.picture)
        page = "<html><body><h1>Maß</h1><p>Text before it.</p><img src='a.png'><p>After.</p></body></html>"
        for n, data in enumerate((page.encode(), page.encode("utf-16"), page.encode("utf-8-sig"))):
            (folder / f"good-{n}.html").write_bytes(data)
            self.expect(Expected(f"pages/good-{n}.html", "good"))
        for n in range(_CUTS):
            (folder / f"cut-{n}.html").write_bytes(self.cut(page.encode()))
            (folder / f"fuzzed-{n}.html").write_bytes(self.fuzzed(page.encode()))
            self.expect(*(Expected(f"pages/{what}-{n}.html", "either") for what in ("cut", "fuzzed")))
        (folder / "lost.html").write_text(page.replace("a.png", "../../../etc/passwd"))
        (folder / "charset.html").write_text(f"<meta charset=klingon>{page}")
        (folder / "nothing.html").write_text("<html></html>")
        (folder / "deep.html").write_text("<div>" * 100_000 + "deep")
        self.expect(Expected("pages/lost.html", "partial", "forbidden", 1))
        self.expect(Expected("pages/deep.html", "either"))
        self.expect(refused("pages/charset.html", "parse"), refused("pages/nothing.html", "parse"))

    def rows(self) -> None:
        """Broken rows between good ones, ten thousand of one id, and pictures that are not to be had."""
        (self.root / "a.png").write_bytes(self.picture)
        lines: list[bytes] = []
        for n, broken in enumerate(_BROKEN_ROWS):
            lines += [_line(id=f"row-{n}", text=f"Row {n}.", year=n), broken.encode()]
            self.expect(Expected(f"row-{n}", "good"))
        for name, path in _LOST_PICTURES.items():
            lines += [_line(id=f"{name}-0", image=path), _line(id=f"{name}-1", image=path, text="Its text.")]
            stage = "forbidden" if name in ("out", "root", "web", "bucket") else "parse"
            self.expect(refused(f"{name}-0", stage), Expected(f"{name}-1", "partial", stage, 1))
        lines += [_NOT_UTF8, _line(id="odd", text="t", year="x")]
        self.expect(refused("odd", "metadata"))
        lines += [_line(id="twin", text="One of very many.")] * TWINS
        self.expect(Expected("twin", "good", "list", TWINS - 1))
        self.source("rows.jsonl", b"\n".join(lines))
        broken_lines = {*map(str.encode, _BROKEN_ROWS), _NOT_UTF8}
        for number, line in enumerate(lines, start=1):
            if line in broken_lines:
                name = "only an id" if b"only an id" in line else f"rows.jsonl:{number}"
                self.expect(refused(name, "list"))

    def tables(self) -> None:
        """CSV and Parquet with the wrong cells, types and columns."""
        good = "csv-0,a.png,Text\n"
        bad = ("csv-1,a.png\n", "csv-2,a.png,t,t,t\n", 'csv-3,a.png,"never closed\n')
        self.source("cells.csv", ("id,image,text\n" + good + "".join(bad) + "csv-4,a.png,t\n").encode())
        self.expect(*(Expected(f"csv-{n}", "good") for n in (0, 4)))
        self.expect(*(refused(f"cells.csv:{n}", "list") for n in (3, 4, 5)))
        self.source("header.csv", b"name,picture\nx,y\n")
        self.source("nothing.csv", b"")
        self.parquet("types.parquet", id=[[1], [2]], text=["t", "t"])
        self.expect(*(refused(f"types.parquet:{n}", "list") for n in (1, 2)))
        self.parquet("columns.parquet", name=["x"])
        self.parquet("binary.parquet", id=["x"], image=[self.picture])
        self.source("noise.parquet", self.chance.randbytes(4096))
        self.parquet("bomb.parquet", id=[f"bomb-{n}" for n in range(300)], text=["t" * 2**20] * 300)
        held = [{"bytes": data, "path": None} for data in (self.picture, b"noise", b"", None)]
        self.parquet("held.parquet", id=[f"held-{n}" for n in range(4)], image=held)
        names = ["header.csv", "nothing.csv", "columns.parquet", "binary.parquet", "noise.parquet"]
        self.expect(*(refused(name, "list") for name in names))
        self.damaged.append(str(self.root / "bomb.parquet"))
        self.expect(Expected("held-0", "good"), refused("held-1", "decode"))
        self.expect(*(refused(f"held-{n}", "read") for n in (2, 3)))

    def parquet(self, name: str, /, **columns: Sequence[Any]) -> None:
        out = io.BytesIO()
        pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), out)
        self.source(name, out.getvalue())

    def shard(self) -> None:
        """A tar with names that lead out of it, links and devices, broken JSON and an empty picture."""
        data = self.picture
        kinds = {"link.png": tarfile.SYMTYPE, "hard.png": tarfile.LNKTYPE, "device.png": tarfile.CHRTYPE}
        members = [("good.png", data), ("/etc/abs.png", data), ("../up.png", data), ("a/../../b.png", data)]
        members += [("json.png", data), ("json.json", b"{"), ("empty.png", b""), ("noise.png", b"noise")]
        self.source("shard.tar", _tar([*members, *((name, kind) for name, kind in kinds.items())], kinds))
        of = f"{self.root.name}/shard.tar"
        self.expect(Expected(f"{of}/good", "good"), Expected(f"{of}/json", "refused", "list", 1))
        self.expect(*(refused(name, "list") for name in ("/etc/abs.png", "../up.png", "a/../../b.png")))
        self.expect(*(refused(f"{of}/{name}", "list") for name in ("empty", "link", "hard", "device")))
        self.expect(refused(f"{of}/noise", "decode"))

    def damaged_manifests(self) -> None:
        """Each form of manifest, cut off and fuzzed: what stands before a cut is good."""
        for suffix in ("jsonl", "json", "csv", "parquet", "tar"):
            for n in range(_CUTS):
                rows, whole = self.manifest(f"cut-{n}.{suffix}")
                cut = self.cut(whole)
                self.source(f"cut-{n}.{suffix}", cut)
                self.expect(*(Expected(name, "good") for name, row in rows.items() if row in cut))
            for n in range(_FUZZES):
                self.source(f"fuzzed-{n}.{suffix}", self.fuzzed(self.manifest(f"fuzzed-{n}.{suffix}")[1]))
            self.damaged += self.sources[-_CUTS - _FUZZES :]

    def manifest(self, name: str) -> tuple[dict[str, bytes], bytes]:
        """The bytes of each row, by its document's id, and those of the file. Rows of Parquet have none: they
        end with the file."""
        rows = [{"id": f"{name}/{n}", "image": "a.png", "text": f"Row {n} of a file."} for n in range(5)]
        ids = [row["id"] for row in rows]
        out = io.BytesIO()
        if name.endswith(".tar"):
            pictures = [encoded(photograph(200 + n, 32), "PNG") for n in range(5)]
            tar = _tar([(f"{n}.png", data) for n, data in enumerate(pictures)], {})
            return {f"{self.root.name}/{name}/{n}": data for n, data in enumerate(pictures)}, tar
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(rows), out)
            return {}, out.getvalue()
        if name.endswith(".csv"):
            lines = [f"{','.join(row.values())}\n".encode() for row in rows]
            return dict(zip(ids, lines, strict=True)), b"id,image,text\n" + b"".join(lines)
        packed = [_line(**row) for row in rows]
        is_array = name.endswith(".json")
        whole = b"[" + b", ".join(packed) + b"]" if is_array else b"\n".join(packed)
        return dict(zip(ids, packed, strict=True)), whole


def _line(**row: Any) -> bytes:
    return json.dumps(row).encode()


def _tar(members: Iterable[tuple[str, bytes]], kinds: Mapping[str, bytes]) -> bytes:
    """A member of one of the `kinds` has no content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if name in kinds:
                info.type, info.linkname = kinds[name], "good.png"
                archive.addfile(info)
            else:
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
