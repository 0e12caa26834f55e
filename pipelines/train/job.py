"""The training jobs on Ray Train. Only wires: data, model and loop are the modules beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from pipelines.core.errors import MmragError
from pipelines.core.lite_trunk import Trunk
from pipelines.core.ray_metrics import record
from pipelines.core.ray_runtime import ray_runtime
from pipelines.core.torch_runtime import pick_dtype
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.encoder_data import extract, read_rows
from pipelines.train.encoder_loop import Towers, Worker, fit, held_out_figures, read_summary, save
from pipelines.train.run_log import RunLog, followed, tell


def train_encoder(
    data: Path,
    out: Path,
    config: EncoderTraining,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Train the heads of the `lite` encoder on the rows of `data` and write them into `out`.

    Returns what was trained on and the held-out figures. `out` is shared by all workers; the features
    of pictures stay in `out/cache`, so that a second run starts at once. Raises UsageError for bad rows.
    """
    read_rows(data)  # a bad row stops the job before it takes a worker
    out.mkdir(parents=True, exist_ok=True)
    settings = {"data": str(data.resolve()), "out": str(out.resolve()), "config": config.model_dump()}
    progress("starting the workers", 0, 0)
    gpus = config.num_workers if config.use_gpu else 0
    with (
        ray_runtime(waits_for={"CPU": config.num_workers + 1, "GPU": gpus}),
        followed(out, progress),
    ):
        trainer = TorchTrainer(
            _train_encoder_worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu),
            run_config=RunConfig(name="encoder", storage_path=str(out.resolve() / "ray")),
        )
        try:
            trainer.fit()
        except train.TrainingFailedError as exc:
            raise own_error(exc) from exc
    return read_summary(out)


def _train_encoder_worker(settings: dict[str, Any]) -> None:
    config = EncoderTraining.model_validate(settings["config"])
    data, out = Path(settings["data"]), Path(settings["out"])
    rank, device = train.get_context().get_world_rank(), get_device()
    dtype = pick_dtype(config.extraction_dtype, device.type)
    towers = Towers(partial(Trunk, str(device), dtype))
    on_progress = partial(tell, out, "encoding the pictures")
    prepare = partial(
        extract, read_rows(data), data.parent, config, towers.pooled, out / "cache", on_progress
    )
    table = prepare() if rank == 0 else None
    if config.num_workers > 1:
        torch.distributed.barrier()  # the others find the features in the cache
    table = table or prepare()
    worker = Worker(rank, str(device), prepare_model)
    if rank:
        fit(table, config, towers, worker)
        return
    with RunLog(out, 1, config.steps, partial(record, model="encoder")) as log:
        heads = fit(table, config, towers, worker, lambda step, loss: log.write(step, {"loss": loss}))
    summary = {"rows": len(table.rows), "skipped_pictures": table.skipped}
    save(heads, config, out, summary | held_out_figures(heads, table, towers))


def own_error(exc: BaseException) -> BaseException:
    """The MmragError that an error of Ray Train's wraps, at whatever depth; else the error itself."""
    inner = [exc, *getattr(exc, "worker_failures", {}).values(), getattr(exc, "controller_failure", None)]
    for seen in inner:
        while seen is not None:
            if isinstance(seen, MmragError):
                return seen
            seen = getattr(seen, "_base_exc", None) or getattr(seen, "cause", None) or seen.__cause__
    return exc
