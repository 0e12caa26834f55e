"""A fine-tuning run as one of its workers sees it: steps, evaluations, checkpoints, early stop.

Knows nothing of Ray: where batches come from and where checkpoints go is the caller's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from pipelines.train.llava_checkpoint import load, save
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_loop import Batch, Loop
from pipelines.train.llava_plan import Origin
from pipelines.train.run_log import RunLog

Report = Callable[[dict[str, float], Callable[[Path], None]], None]
"""(figures, write a checkpoint into a directory). All workers call it together."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How well the run does so far; kept in its checkpoints. `stale`: evaluations since the best one."""

    eval_loss: float = math.nan
    best_eval_loss: float = math.inf
    stale: int = 0

    def after(self, eval_loss: float) -> Progress:
        better = eval_loss < self.best_eval_loss
        return Progress(eval_loss, min(eval_loss, self.best_eval_loss), 0 if better else self.stale + 1)

    def figures(self) -> dict[str, float]:
        return asdict(self) if math.isfinite(self.best_eval_loss) else {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of this worker's part of the run since it was (last) started."""

    step: int
    steps_run: int
    tokens_per_s: float
    """Of all workers, without padding. The first step, evaluations and checkpoints are left out."""
    peak_memory_mb: float
    stopped_early: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def resume(checkpoint: Path, loop: Loop, origin: Origin) -> Progress:
    """Have the loop go on from a checkpoint. Raises UsageError for one of another run."""
    figures = load(checkpoint, loop.trainable, loop, origin).figures
    if "best_eval_loss" not in figures:  # nothing was held out
        return Progress()
    return Progress(figures["eval_loss"], figures["best_eval_loss"], int(figures["stale"]))


def run(
    loop: Loop,
    config: LlavaTraining,
    batches: Iterator[Batch],
    held_out: Callable[[], Iterable[Batch]] | None,
    progress: Progress,
    origin: Origin,
    report: Report,
    log: RunLog | None,
) -> Outcome:
    """Train from where the loop stands to `config.steps`, or until `early_stop`.

    Before each checkpoint the held-out samples are evaluated, where there are any. `log` is rank 0's.
    """
    first, stepping_s, tokens, stopped = loop.steps_done, 0.0, 0, _spent(progress, config)
    while loop.steps_done < config.steps and not stopped:
        start = time.perf_counter()
        result = loop.step([next(batches) for _ in range(config.accumulate)])
        if loop.steps_done > first + 1:  # the first waits for the readers to start
            stepping_s += time.perf_counter() - start
            tokens += result.tokens
        if log:
            figures = {"loss": result.loss, "grad_norm": result.grad_norm, "tokens": result.tokens}
            log.write(result.step, figures | {"learning_rate": result.learning_rate})
        if result.step % config.save_steps == 0 or result.step == config.steps:
            if held_out:
                progress = progress.after(loop.evaluate(held_out()))
                if log:
                    log.write(result.step, {"eval_loss": progress.eval_loss})
            stopped = _spent(progress, config)
            _checkpoint(loop, progress, origin, result.loss, report)
    rate = tokens / stepping_s if stepping_s else 0.0
    ran = loop.steps_done - first
    return Outcome(
        loop.steps_done, ran, round(rate, 1), round(_peak_memory_mb(loop.place.device), 1), stopped
    )


def _spent(progress: Progress, config: LlavaTraining) -> bool:
    return bool(config.early_stop) and progress.stale >= config.early_stop


def _checkpoint(loop: Loop, progress: Progress, origin: Origin, loss: float, report: Report) -> None:
    figures: Mapping[str, float] = progress.figures()

    def write(directory: Path) -> None:
        save(directory, loop.trainable, loop, origin, figures)

    report({"step": loop.steps_done, "loss": loss, **figures}, write)


def _peak_memory_mb(device: str) -> float:
    """MiB: of a GPU what torch had allocated at most, else the process's largest resident memory."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return float(psutil.Process().memory_info().rss) / 2**20
