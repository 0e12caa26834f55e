"""What is trained on and what is only ever asked in tests, and the rows of both. Knows nothing of the tasks.

The rule, for everything that can be counted (numbers of a field, codes, names, scenes): a text is held out
where the BLAKE2b hash of its kind and the text is divisible by 5. It is a function of the text alone, so no
seed and no amount of data can mix the two. Phrasings are listed by hand: a `Phrases` names those trained
on and those that are only tested. Layouts likewise (`sheets.py`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Part = Literal["train", "test"]
Language = Literal["en", "zh"]
_ONE_IN = 5


def part_of(kind: str, text: str) -> Part:
    """Which side a text is on, among the texts of its kind."""
    digest = hashlib.blake2b(f"{kind}/{text}".encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % _ONE_IN == 0 else "train"


def drawn(part: Part, kind: str, draw: Callable[[], str]) -> str:
    """The first text that `draw` gives of this part."""
    while part_of(kind, text := draw()) != part:
        pass
    return text


def generator(*key: object) -> random.Random:
    """A stream of its own for each row: more rows of one task change no other."""
    return random.Random("/".join(map(str, key)))


@dataclass(frozen=True, slots=True)
class Phrases:
    """Ways to ask for one thing. Those of the test use words of the others only."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, part: Part) -> tuple[str, ...]:
        return self.train if part == "train" else self.test


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and its answer, without marks of pictures."""

    question: str
    answer: str
    topic: str = ""


def row(name: str, images: Sequence[str], asked: Sequence[Asked]) -> dict[str, Any]:
    """A LLaVA conversation of that id; the pictures come before the first question."""
    said = []
    for number, one in enumerate(asked):
        marks = "<image>\n" * len(images) if number == 0 and "<image>" not in one.question else ""
        said += [{"from": "human", "value": marks + one.question}, {"from": "gpt", "value": one.answer}]
    made: dict[str, Any] = {"id": name}
    if images:
        made["image"] = images[0] if len(images) == 1 else list(images)
    return made | {"conversations": said}
