"""Questions about drawn shapes: easy-VQA (Victor Zhou), English, one short answer each.

Of its author's test part, 1,000 pictures of 64 pixels with 9,673 questions; the packaged tiny-llava was
trained on the other, which is not asked here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .judged import Question, write
from .packages import Package, fetch, unpack

TASK = "generation"
LICENCE = "MIT"
PACKAGE = Package(
    "pypi", "easy-vqa", "1.0", "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f"
)


def fetch_data(work: Path) -> Path:
    """The package's data folder: `train` and `test`, each with images/N.png and questions.json."""
    archive = fetch(PACKAGE, work / "downloads")
    return unpack(archive, "easy_vqa/data", work / "downloads" / "easy-vqa-data")


def build(work: Path, out: Path) -> None:
    part = fetch_data(work) / "test"
    shutil.copytree(part / "images", out / "pictures")
    documents = [
        {"id": f"easy-vqa-{picture.stem}", "image": f"pictures/{picture.name}"}
        for picture in sorted((out / "pictures").glob("*.png"))
    ]
    questions = [
        Question(
            f"easy-vqa-{picture}",
            {
                "id": f"easy-vqa-{picture}-{number}",
                "query": text,
                "image": f"pictures/{picture}.png",
                "answers": [answer],
            },
        )
        for number, (text, answer, picture) in enumerate(
            json.loads((part / "questions.json").read_text("utf-8"))
        )
    ]
    write(out, documents, questions)
