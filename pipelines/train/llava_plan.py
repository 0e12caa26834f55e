"""What a run reads: which rows of the data are trained on, which are held out, and which cannot be used.

Decided once, from the file alone, before a worker starts. Knows nothing of models or Ray.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.core.adapter import BaseModelIdentity
from pipelines.core.errors import UsageError
from pipelines.train.conversations import BadRow, ConversationFile, Sample
from pipelines.train.llava_config import LlavaTraining

REJECTED_FILE = "rejected.jsonl"
_SKIPPED = "skipped"
Ordinals = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run's checkpoints belong to. Ray Train's controller reads it, too, and needs no torch.

    `eval_hash`: of `eval_data`; empty without one.
    """

    base: BaseModelIdentity
    data_hash: str
    prompt_version: str
    eval_hash: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that is not trained on, or not on its last `dropped_turns`: its file, line and id, and why."""

    file: str
    line: int
    id: str
    reason: str
    dropped_turns: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one file, by ordinal; `sizes` (rows, 2): the bytes of each row's words, and its pictures."""

    rows: ConversationFile
    ordinals: Ordinals
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ordinals)

    def lengths(self, tokens_per_image: int) -> NDArray[np.int64]:
        """About how many tokens each row has: three bytes of words make one."""
        return self.sizes[:, 0] // 3 + self.sizes[:, 1] * tokens_per_image

    def samples(self, places: Iterable[int]) -> Iterator[Sample]:
        """The samples at these places of the part. A row that was sound must still be so."""
        for row in self.rows.read([int(self.ordinals[place]) for place in places]):
            if isinstance(row, BadRow):
                raise UsageError(
                    f"{self.rows.path} changed while it was read (line {row.line}: {row.reason})"
                )
            yield row


@dataclass(frozen=True, slots=True)
class Plan:
    train: Part
    held_out: Part
    rejected: tuple[Rejected, ...]


def make_plan(data: Path, config: LlavaTraining) -> Plan:
    """Read every row once. A row is held out by a hash of its id, so that a longer file holds the same out.

    Raises UsageError when no row is left to train on, or to evaluate on where `eval_data` is set.
    """
    rows = ConversationFile(data, config.image_root)
    good, rejected = _sound(rows)
    fraction = 0.0 if config.eval_data else config.eval_fraction
    held = [_fraction_of(row.id) < fraction for row in good]
    train = _part(rows, [row for row, out in zip(good, held, strict=True) if not out])
    held_out = _part(rows, [row for row, out in zip(good, held, strict=True) if out])
    if config.eval_data:
        others = ConversationFile(config.eval_data, config.image_root)
        sound, bad = _sound(others)
        held_out = _part(others, sound)
        rejected += bad
        if not len(held_out):
            raise UsageError(f"{config.eval_data}: no row can be used; {_first(bad)}")
    if not len(train):
        raise UsageError(f"{data}: no row is left to train on; {_first(rejected)}")
    return Plan(train, held_out, tuple(rejected))


class _Row(NamedTuple):
    """`size`: a row of Part.sizes."""

    ordinal: int
    id: str
    size: tuple[int, int]


def _part(rows: ConversationFile, chosen: Sequence[_Row]) -> Part:
    return Part(
        rows,
        np.array([row.ordinal for row in chosen], np.int64),
        np.array([row.size for row in chosen], np.int64).reshape(-1, 2),
    )


class SkipLog:
    """Samples that a worker met and could not use, or not whole; each is written once. One file a worker."""

    def __init__(self, out: Path, rank: int) -> None:
        self._path = out / _SKIPPED / f"{rank}.jsonl"
        self._known: set[Rejected] = set()

    def add(self, rejected: Iterable[Rejected]) -> None:
        new = [one for one in dict.fromkeys(rejected) if one not in self._known]
        if not new:
            return
        self._known.update(new)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in new)


def write_rejected(out: Path, plan: Plan) -> tuple[Rejected, ...]:
    """Gather what the plan and the workers left out into one file. Returns it, each row once."""
    found = list(plan.rejected)
    for path in sorted((out / _SKIPPED).glob("*.jsonl")):
        # Not splitlines(): an id may hold U+2028. The last is empty, or was cut short by a kill.
        lines = path.read_text("utf-8").split("\n")[:-1]
        found += [Rejected(**json.loads(line)) for line in lines]
    every = tuple(dict.fromkeys(found))
    lines_out = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in every)
    (out / REJECTED_FILE).write_text("".join(lines_out), "utf-8")
    return every


def _sound(rows: ConversationFile) -> tuple[list[_Row], list[Rejected]]:
    """The rows that can be used; the others."""
    good: list[_Row] = []
    bad: list[Rejected] = []
    for ordinal in range(len(rows)):
        (row,) = rows.read([ordinal])
        if isinstance(row, BadRow):
            bad.append(Rejected(str(rows.path), row.line, row.id, row.reason))
        else:
            words = sum(len(turn.text.encode()) for turn in row.turns)
            good.append(_Row(ordinal, row.id, (words, len(row.images))))
    return good, bad


def _fraction_of(name: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def _first(rejected: list[Rejected]) -> str:
    if not rejected:
        return "all are held out: lower eval_fraction"
    return f"line {rejected[0].line}: {rejected[0].reason} (`--check` lists all)"
