"""The training jobs on Ray Train. Only wires: data, model and loop are the modules beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from pipelines.core.lite_trunk import Trunk
from pipelines.core.torch_runtime import pick_dtype
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.encoder_data import extract, read_rows
from pipelines.train.encoder_loop import Towers, Worker, fit, held_out_figures, read_summary, save


def train_encoder(data: Path, out: Path, config: EncoderTraining) -> dict[str, Any]:
    """Train the heads of the `lite` encoder on the rows of `data` and write them into `out`.

    Returns what was trained on and the held-out figures. `out` is shared by all workers; the features
    of pictures stay in `out/cache`, so that a second run starts at once. Raises UsageError for bad rows.
    """
    read_rows(data)  # a bad row stops the job before it takes a worker
    out.mkdir(parents=True, exist_ok=True)
    settings = {"data": str(data.resolve()), "out": str(out.resolve()), "config": config.model_dump()}
    with _ray():
        trainer = TorchTrainer(
            _train_encoder_worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu),
            run_config=RunConfig(name="encoder", storage_path=str(out.resolve() / "ray")),
        )
        trainer.fit()
    return read_summary(out)


def _train_encoder_worker(settings: dict[str, Any]) -> None:
    config = EncoderTraining.model_validate(settings["config"])
    data, out = Path(settings["data"]), Path(settings["out"])
    rank, device = train.get_context().get_world_rank(), get_device()
    dtype = pick_dtype(config.extraction_dtype, device.type)
    towers = Towers(partial(Trunk, str(device), dtype))
    prepare = partial(extract, read_rows(data), data.parent, config, towers.pooled, out / "cache")
    table = prepare() if rank == 0 else None
    if config.num_workers > 1:
        torch.distributed.barrier()  # the others find the features in the cache
    table = table or prepare()
    heads = fit(table, config, towers, Worker(rank, str(device), prepare_model))
    if rank == 0:
        summary = {"rows": len(table.rows), "skipped_pictures": table.skipped}
        save(heads, config, out, summary | held_out_figures(heads, table, towers))


@contextmanager
def _ray() -> Iterator[None]:
    """A Ray runtime: the caller's where there is one, else one of our own for as long as this takes."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    ray.init(address=address, include_dashboard=None if address else False)
    try:
        yield
    finally:
        ray.shutdown()
