"""Batches for the loop: which samples, prepared where, in which order. Knows nothing of Ray or of weights.

The order is `llava_order`'s. A sample that cannot be used is replaced by the next one that can, so that every
step has its full batch and the order stays a pure function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.core.errors import BadPart, MmragError, UsageError
from pipelines.train.conversations import Sample
from pipelines.train.llava_batch import Example, Prepare, collate
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_order import Grouping, sample_order
from pipelines.train.llava_plan import Part, Rejected

_MOST_SUBSTITUTES = 1000


def places(
    part: Part, config: LlavaTraining, first_step: int, rank: int, world: int, tokens_per_image: int
) -> pa.Table:
    """`place`: where in `part` each sample lies that this worker reads, from a step (from 0) to the last."""
    size = config.batch_size
    grouping = Grouping(part.lengths(tokens_per_image), size) if config.group_by_length else None
    order = (
        sample_order(len(part), config.seed, step, world, rank, size, config.accumulate, grouping)
        for step in range(first_step, config.steps)
    )
    found = np.fromiter((place for step in order for _, place in step), np.int64)
    return pa.table({"place": found})


class LoadExamples:
    """Table of `place` -> table of prepared samples. Loads the processor once."""

    def __init__(self, part: Part, load_prepare: Callable[[], Prepare]) -> None:
        self._part = part
        self._prepare = load_prepare()

    def __call__(self, batch: pa.Table) -> pa.Table:
        wanted = batch["place"].to_pylist()
        rows = []
        for place, sample in zip(wanted, self._part.samples(wanted), strict=True):
            example, refused = self._usable(place, sample)
            rows.append(
                {
                    "place": place,
                    "id": example.id,
                    "input_ids": example.input_ids,
                    "labels": example.labels,
                    "pixels": example.pixels.tobytes(),
                    "pictures": len(example.pixels),
                    "refused": [asdict(one) for one in refused],
                }
            )
        return pa.Table.from_pylist(rows, SCHEMA)

    def _usable(self, place: int, sample: Sample) -> tuple[Example, list[Rejected]]:
        refused: list[Rejected] = []
        for offset in range(1, min(len(self._part), _MOST_SUBSTITUTES) + 1):
            try:
                example = self._prepare(sample)
            except BadPart as exc:
                refused.append(_left_out(self._part, sample, str(exc)))
            else:
                return example, refused + _shortened(self._part, sample, example)
            (sample,) = self._part.samples([(place + offset) % len(self._part)])
        raise MmragError(
            f"{len(refused)} samples in a row cannot be used, the first on line {refused[0].line}: "
            f"{refused[0].reason}"
        )


SCHEMA = pa.schema(
    {
        "place": pa.int64(),
        "id": pa.string(),
        "input_ids": pa.list_(pa.int64()),
        "labels": pa.list_(pa.int64()),
        "pixels": pa.binary(),
        "pictures": pa.int64(),
        "refused": pa.list_(
            pa.struct(
                {
                    "file": pa.string(),
                    "line": pa.int64(),
                    "id": pa.string(),
                    "reason": pa.string(),
                    "dropped_turns": pa.int64(),
                }
            )
        ),
    }
)


def loaded(table: pa.Table, side: int) -> tuple[list[Example], list[Rejected]]:
    """The examples of a table that LoadExamples made, and what it refused for them."""
    examples, refused = [], []
    for row in table.to_pylist():
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(row["pictures"], side, side, 3)
        ids, labels = (np.array(row[name], np.int64) for name in ("input_ids", "labels"))
        examples.append(Example(ids, labels, pixels, row["id"]))
        refused += [Rejected(**one) for one in row["refused"]]
    return examples, refused


def to_batch(examples: Sequence[Example], prepare: Prepare) -> dict[str, Any]:
    """What the loop takes: collated tensors and the samples' ids."""
    shape = prepare.shape
    tensors = collate(
        examples, shape.pad_id, shape.image_token_id, shape.tokens_per_image, shape.mean, shape.std
    )
    return {**tensors, "ids": [example.id for example in examples]}


def held_out_batches(
    part: Part, prepare: Prepare, size: int, rank: int, world: int, refuse: Callable[[list[Rejected]], None]
) -> Iterator[dict[str, Any]]:
    """This worker's share of the samples to evaluate on, in order. One that cannot be used is left out."""
    mine = range(rank, len(part), world)
    for first in range(0, len(mine), size):
        examples = []
        for sample in part.samples(mine[first : first + size]):
            try:
                examples.append(prepare(sample))
            except BadPart as exc:
                refuse([_left_out(part, sample, str(exc))])
            else:
                refuse(_shortened(part, sample, examples[-1]))
        if examples:
            yield to_batch(examples, prepare)


def require_usable(held_out: Part, prepare: Prepare) -> None:
    """Raise UsageError where samples are held out and none of them can be used: no checkpoint could be
    judged. Reads up to the first that can, so before a training this costs one sample."""
    why = ""
    for place in range(len(held_out)):
        (sample,) = held_out.samples([place])
        try:
            prepare(sample)
        except BadPart as exc:
            why = why or f"line {sample.line}: {exc}"
        else:
            return
    if why:
        raise UsageError(
            f"{held_out.rows.path}: none of the {len(held_out):,} rows to evaluate on can be used; {why} "
            "(`--check` lists all). Mend them, or set eval_data or eval_fraction otherwise"
        )


def _shortened(part: Part, sample: Sample, example: Example) -> list[Rejected]:
    many = example.dropped_turns
    return [_left_out(part, sample, "its last turns do not fit into max_tokens", many)] if many else []


def _left_out(part: Part, sample: Sample, reason: str, dropped_turns: int = 0) -> Rejected:
    return Rejected(str(part.rows.path), sample.line, sample.id, reason, dropped_turns)
