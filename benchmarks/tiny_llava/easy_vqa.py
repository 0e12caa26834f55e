"""The easy-VQA data set (Victor Zhou, MIT licence, PyPI `easy-vqa==1.0`) as conversations.

4,000 training pictures with 38,575 questions, 1,000 test pictures with 9,673, split by its author. Knows
nothing of models.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.tiny_llava.split import Asked, Part, row

_AT_A_TIME = 5


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
