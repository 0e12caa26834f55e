"""Tiny archives in the place of the public packages that benchmarks/data reads, and of the clients that fetch
them. No network."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from benchmarks.data.packages import Package

VENDORS = ("google", "twitter", "apple", "facebook")
CONCEPTS = 12


def png(side: int = 64, colour: str = "red", form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(stream, form)
    return stream.getvalue()


def tgz(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def whl(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def put(downloads: Path, name: str, archive: bytes, registry: str = "npm") -> Package:
    """The package of an archive, which lies in `downloads` as if it had been fetched."""
    package = Package(registry, name, "1.0", hashlib.sha256(archive).hexdigest())
    downloads.mkdir(parents=True, exist_ok=True)
    (downloads / package.file_name).write_bytes(archive)
    return package


def rcc(files: Mapping[str, bytes], flags: int = 0) -> bytes:
    """A Qt resource file, format 3, of paths of any depth; flags 1: deflated."""
    tree: dict = {}
    for path, data in files.items():
        *folders, name = path.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[name] = data
    nodes, names, contents = [("", tree)], bytearray(), bytearray()
    rows = bytearray()
    for name, value in nodes:  # grows while it is walked: children after their parents, together
        offset = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if isinstance(value, dict):
            rows += struct.pack(">IHIIQ", offset, 2, len(value), len(nodes), 0)
            nodes.extend(value.items())
        else:
            stored = struct.pack(">I", len(value)) + zlib.compress(value) if flags & 1 else value
            rows += struct.pack(">IHHHIQ", offset, flags, 0, 0, len(contents), 0)
            contents += struct.pack(">I", len(stored)) + stored
    places = 24 + len(contents) + len(names), 24, 24 + len(contents)
    return struct.pack(">4sIIIII", b"qres", 3, *places, 0) + contents + names + rows


def board(number: int) -> dict[str, bytes]:
    """A GCompris picture of 200 x 100 pixels with two details of 20 x 20."""
    levels = [
        {"pixmapfile": f"image/{number}_background.webp", "type": "SHAPE_BACKGROUND_IMAGE"},
        {"pixmapfile": f"image/{number}_0.webp", "x": "0.5", "y": "0.5", "dropAreaSize": "8"},
        {"pixmapfile": f"image/{number}_1.webp", "x": "0.05", "y": "0.9", "dropAreaSize": "8"},
    ]
    whole = io.BytesIO()
    Image.new("RGB", (200, 100)).save(whole, "WEBP")
    place = "gcompris/src/activities/details/resource"
    qml = f'QtObject {{\n property string instruction: qsTr("Castle {number}.")\n property var levels: '
    return {
        f"{place}/board/board{number}_0.qml": (qml + json.dumps(levels, indent=1) + "\n}").encode(),
        f"{place}/image/{number}_background.webp": whole.getvalue(),
        f"{place}/image/{number}_0.webp": png(20, form="WEBP"),
        f"{place}/image/{number}_1.webp": png(20, "blue", form="WEBP"),
    }


def easy_vqa(pictures: int = 8) -> bytes:
    asked = [[f"what color is shape {n}?", "red", n // 2] for n in range(2 * pictures)]
    images = {f"easy_vqa/data/test/images/{n}.png": png() for n in range(pictures)}
    return whl({"easy_vqa/data/test/questions.json": json.dumps(asked).encode(), **images})


def emoji_packages(downloads: Path) -> tuple[Package, ...]:
    codes = [f"1F6{number:02X}" for number in range(CONCEPTS)]
    listed = [{"unified": code, "image": f"{code.lower()}.png", "category": "x"} for code in codes]
    found = []
    for vendor in VENDORS:
        files = {f"package/img/{vendor}/64/{one['image']}": png() for one in listed}
        files["package/emoji.json"] = json.dumps(listed).encode()
        found.append(put(downloads, f"emoji-datasource-{vendor}", tgz(files)))
    names = {
        f"package/{language}/data.json": json.dumps(
            [{"hexcode": code, "label": f"{language} {code}"} for code in codes]
        ).encode()
        for language in ("en", "zh", "zh-hant")
    }
    return (*found, put(downloads, "emojibase-data", tgz(names)))


def manual(pages: int, words: Mapping[str, str]) -> dict[str, bytes]:
    """Pages of a DocBook manual, each with a large picture, one that all share, an icon and a note's sign."""
    files = {"images/shared.png": png(), "images/note.png": png(), "images/icon.png": png(16)}
    for number in range(pages):
        files[f"images/tool/{number}.png"] = png()
        files[f"page-{number}.html"] = PAGE.format(number=number, **words).encode()
    return files


PAGE = """<html><body>
<div class="navheader"><p>Previous page of the manual, which is not a paragraph</p>
<img src="images/tool/{number}.png" alt="Prev"/></div>
<h2 class="title">{number}.4. {title} {number}</h2>
<div class="figure"><p class="title"><strong>Figure 1. The tool</strong></p>
<img src="images/tool/{number}.png" alt="tool"/></div>
<p>{paragraph} {number}</p>
<img src="images/icon.png"/>
<h3 class="title">{number}.4.1. {section}</h3>
<p>{paragraph} {section} {number}</p>
<img src="images/shared.png"/>
<div class="note"><img src="images/note.png" alt="[Note]"/></div>
</body></html>"""
