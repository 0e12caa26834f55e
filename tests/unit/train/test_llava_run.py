"""A run of one worker: what its log and whoever watches it are told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakes import Recorded
from llava_runs import COUNT, collate, micro_batches, new_loop, origin, sample, settings
from tiny_llava import save_tiny_llava

from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_run import Progress
from pipelines.train.llava_run import run as train
from pipelines.train.metrics import METRICS
from pipelines.train.run_log import RunLog, read_steps


def batches(config: LlavaTraining) -> Iterator[dict[str, Any]]:
    for step in range(config.steps):
        yield from micro_batches(config, step)


def test_every_figure_of_a_run_is_recorded(tmp_path: Path) -> None:
    base = save_tiny_llava(tmp_path / "base")
    config, record = settings(base, steps=3, save_steps=2), Recorded()
    held_out = [collate([sample(COUNT - 1)])]
    with RunLog(tmp_path, 1, config.steps, lambda *told: record(*told, model="llava")) as log:
        train(
            new_loop(config),
            config,
            batches(config),
            lambda: held_out,
            Progress(),
            origin(base),
            lambda figures, write: None,
            log,
        )
    read = sum(int(batch["attention_mask"].sum()) for batch in batches(config))
    assert record.counted == {("mmrag_train_tokens", "llava"): read}
    assert {*record.gauges, *record.counted} == {(metric.name, "llava") for metric in METRICS}
    assert record.gauges["mmrag_train_step", "llava"] == 3
    assert math.isfinite(record.gauges["mmrag_train_eval_loss", "llava"])
    assert [line.get("tokens", 0) > 0 for line in read_steps(tmp_path)] == [True, True, False, True, False]
