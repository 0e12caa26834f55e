"""The easy-VQA data set (Victor Zhou, MIT licence, PyPI `easy-vqa==1.0`) as conversations.

4,000 training pictures with 38,575 questions, 1,000 test pictures with 9,673, split by its author. Knows
nothing of models.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.tiny_llava.split import Asked, Part, row

PACKAGE = "easy-vqa==1.0"
_AT_A_TIME = 5


def fetch(out: Path) -> Path:
    """The package's data folder under `out/downloads`, fetched with pip where it is not there yet."""
    downloads = out / "downloads"
    if not (data := downloads / "easy-vqa" / "easy_vqa" / "data").exists():
        downloads.mkdir(parents=True, exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            downloads,
            PACKAGE,
        ]
        subprocess.run(command, check=True)
        [wheel] = downloads.glob("easy_vqa-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(downloads / "easy-vqa")
    return data


def conversations(data: Path, out: Path, part: Part, rng: random.Random) -> list[dict[str, Any]]:
    """The rows, pictures copied into `out`. For training up to five questions of a picture a row, in random
    order; for the test one.
    """
    folder = out / "pictures" / f"easy-vqa-{part}"
    shutil.copytree(data / part / "images", folder, dirs_exist_ok=True)
    of_picture = defaultdict(list)
    for question, answer, picture in json.loads((data / part / "questions.json").read_text("utf-8")):
        of_picture[picture].append(Asked(question, answer))
    rows = []
    for picture, questions in of_picture.items():
        rng.shuffle(questions)
        many = _AT_A_TIME if part == "train" else 1
        for number in range(0, len(questions), many):
            name = f"easy-vqa-{part}-{picture}-{number}"
            image = (folder / f"{picture}.png").relative_to(out).as_posix()
            rows.append(row(name, [image], questions[number : number + many]))
    return rows
