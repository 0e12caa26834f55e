"""What the tests of LLaVA training share: settings, samples, and runs of the loop in one process or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny_llava import IMAGE_TOKENS, SIDE, byte_tokenizer
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from pipelines.core.adapter import base_identity
from pipelines.train import llava_checkpoint
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_loop import Loop, Place
from pipelines.train.llava_model import IGNORED, load_base, prepare_trainable, shard
from pipelines.train.llava_order import sample_order
from pipelines.train.llava_plan import Origin

COUNT = 13
WORDS = "a red circle lies left of the small blue box, and 7 holes stand".split()  # noqa: SIM905


def settings(base: Path, **changes: Any) -> LlavaTraining:
    """Small and quick; rank 4 on all projections, no dropout."""
    small = {
        "base_model": str(base), "dtype": "float32", "steps": 8, "warm_up": 2, "learning_rate": 3e-3,
        "batch_size": 2, "accumulate": 4, "gradient_checkpointing": False,
        "lora": {"r": 4, "alpha": 8, "dropout": 0.0},
    }  # fmt: skip
    return LlavaTraining.model_validate(small | changes)


def sample(ordinal: int) -> dict[str, Any]:
    """Its answer has 1 to 13 words; every third sample has no picture."""
    encode = byte_tokenizer().encode
    picture = ordinal % 3 != 2
    prompt = f"USER: {'<image>' * IMAGE_TOKENS if picture else ''}{WORDS[ordinal]}? ASSISTANT: "
    question = [1, *encode(prompt)]
    answer = [*encode(" ".join(WORDS[: 1 + ordinal * 5 % 13])), 2]
    pixels = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(ordinal))
    return {
        "id": f"sample-{ordinal}",
        "input_ids": torch.tensor(question + answer),
        "labels": torch.tensor([IGNORED] * len(question) + answer),
        "pixels": pixels if picture else None,
    }


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    ids = [one["input_ids"] for one in samples]
    batch = {
        "input_ids": pad(ids, padding_value=0),
        "attention_mask": pad([torch.ones_like(one) for one in ids], padding_value=0),
        "labels": pad([one["labels"] for one in samples], padding_value=IGNORED),
        "ids": [one["id"] for one in samples],
    }
    pictures = [one["pixels"] for one in samples if one["pixels"] is not None]
    return batch | ({"pixel_values": torch.stack(pictures)} if pictures else {})


def micro_batches(config: LlavaTraining, step: int, rank: int = 0, world: int = 1) -> list[dict[str, Any]]:
    order = sample_order(COUNT, config.seed, step, world, rank, config.batch_size, config.accumulate)
    samples = [sample(ordinal) for _, ordinal in order]
    size = config.batch_size
    return [collate(samples[start : start + size]) for start in range(0, len(samples), size)]


def new_loop(config: LlavaTraining, place: Place | None = None) -> Loop:
    return Loop(prepare_trainable(load_base(config, "cpu"), config), config, place)


def run(loop: Loop, until: int) -> list[float]:
    """The losses of the steps that are left."""
    place = loop.place
    return [
        loop.step(micro_batches(loop.config, step, place.rank, place.world)).loss
        for step in range(loop.steps_done, until)
    ]


def origin(base: Path, **changes: str) -> Origin:
    return Origin(**{"base": base_identity(base), "data_hash": "d", "prompt_version": "1"} | changes)


@dataclass(frozen=True)
class Job:
    """A run in two processes. It leaves a checkpoint in `out / "checkpoint"` and its figures beside it."""

    config: LlavaTraining
    steps: int
    out: Path


def in_two_processes(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Run one after the other with gloo. Gives each job's losses, weights and evaluation."""
    torch.multiprocessing.spawn(_worker, (jobs,), nprocs=2)
    figures = []
    for job in jobs:
        first, second = (torch.load(job.out / f"{rank}.pt", weights_only=True) for rank in range(2))
        assert first["losses"] == second["losses"]
        assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
        figures.append(first)
    return figures


def _worker(rank: int, jobs: Sequence[Job]) -> None:
    torch.set_num_threads(1)
    meet = jobs[0].out / "meet"
    distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    for job in jobs:
        config = job.config
        wrap: Callable[[torch.nn.Module], torch.nn.Module] = DistributedDataParallel
        if config.strategy == "fsdp":
            wrap = partial(shard, mesh=init_device_mesh("cpu", (2,)))
        loop = new_loop(config, Place(rank, 2, wrap=wrap))
        losses = run(loop, job.steps)
        # Unequal shares: the first worker has three evaluation batches, the second one.
        shares = [collate([sample(ordinal)]) for ordinal in ((0, 1, 2) if rank == 0 else (3,))]
        evaluation = loop.evaluate(iter(shares))
        llava_checkpoint.save(job.out / "checkpoint", loop.trainable, loop, origin(Path(config.base_model)))
        figures = {"losses": losses, "weights": loop.trainable.state(), "evaluation": evaluation}
        torch.save(figures, job.out / f"{rank}.pt")
    distributed.destroy_process_group()
