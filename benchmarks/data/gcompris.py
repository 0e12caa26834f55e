"""Grounding: where in a picture is this detail? From GCompris' activity "details".

21 photographs and paintings, and 106 round details of 56 to 88 pixels that a child drags to their place. The
question shows the detail and names the picture; the box is where it belongs, exact to the pixel. Of small
things in a large scene, not of named ones.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path

from PIL import Image

from .judged import Question, Row, write
from .packages import Package, fetch, members
from .rcc import read_rcc

TASK = "grounding"
LICENCE = "GPL-3 (the pictures as the program, by the package's copyright file)"
PACKAGE = Package(
    "debian", "gcompris-qt-data", "3.1-2", "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"
)
_RESOURCES = "usr/share/gcompris-qt/rcc/details.rcc"
_BOARD = re.compile(r"gcompris/src/activities/details/resource/board/(board\d+_\d+)\.qml")
_BESIDE = "gcompris/src/activities/details/resource/"


def build(work: Path, out: Path) -> None:
    archive = fetch(PACKAGE, work / "downloads")
    [(_, data)] = members(archive, _RESOURCES.__eq__)
    documents: list[Row] = []
    questions: list[Question] = []
    (out / "pictures").mkdir(parents=True)
    files = read_rcc(data)
    for path in sorted(files):
        if found := _BOARD.fullmatch(path):
            document, asked = board(found[1], files[path].decode("utf-8"), files, out)
            documents.append(document)
            questions += asked
    write(out, documents, questions)


def board(name: str, qml: str, files: dict[str, bytes], out: Path) -> tuple[Row, list[Question]]:
    """The picture's document, and a question for each of its details; their pictures are written."""
    title = re.search(r'qsTr\("(.*?)"\)', qml)[1].rstrip(".")
    whole, *details = json.loads(re.search(r"levels:\s*(\[.*?\])", qml, re.DOTALL)[1])
    width, height = _save(files[_BESIDE + whole["pixmapfile"]], out / "pictures" / f"{name}.webp")
    document = {"id": name, "image": f"pictures/{name}.webp", "text": title}
    questions = []
    for number, detail in enumerate(details):
        image = f"pictures/{name}-{number}.webp"
        wide, high = _save(files[_BESIDE + detail["pixmapfile"]], out / image)
        left = round(float(detail["x"]) * width - wide / 2)  # x and y are the middle's, as shares
        top = round(float(detail["y"]) * height - high / 2)
        box = {"image": f"{name}#img-0", "xyxy": [left, top, left + wide, top + high]}
        text = f"Where in the picture of {title} is this detail?"
        row = {"id": f"{name}-{number}", "query": text, "image": image, "boxes": [box]}
        questions.append(Question(name, row))
    return document, questions


def _save(data: bytes, file: Path) -> tuple[int, int]:
    file.write_bytes(data)
    with Image.open(BytesIO(data)) as picture:
        return picture.size
