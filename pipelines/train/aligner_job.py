"""`train aligner` on Ray Train. Only wires: data and loop are the modules beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device, prepare_model

from pipelines.core.addresses import index_directory
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import load_embedder
from pipelines.core.encoder import load_encoder
from pipelines.core.errors import UsageError
from pipelines.core.index import Index, IndexConfig, pinned
from pipelines.core.ray_metrics import record
from pipelines.core.ray_runtime import ray_runtime
from pipelines.train.aligner_config import AlignerTraining
from pipelines.train.aligner_data import pairs_of_file, pairs_of_index, read_rows
from pipelines.train.aligner_loop import SUMMARY_FILE, describe, fit, held_out_figures, save
from pipelines.train.aligner_pairs import Pairs
from pipelines.train.job import own_error
from pipelines.train.run_log import RunLog, followed, tell

INDEX_PREFIX = "index:"


def train_aligner(
    data: str,
    out: Path,
    config: AlignerTraining,
    index: IndexConfig,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Train an aligner on the rows of a file, or on the pairs of an index (`index:DIR`); write it to `out`.

    `index` names the models whose vectors it reads; with `index:DIR` they are those of the index, or
    SpaceMismatch is raised. Returns what was trained on and the held-out figures. Vectors of a file's
    pictures stay in `out/cache`. Raises UsageError for bad rows, and for too little to train on.
    """
    out = out.resolve()
    source, index = _checked(data, index)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"data": source, "out": str(out), "config": config.model_dump(), "index": index.model_dump()}
    progress("starting the workers", 0, 0)
    gpus = config.num_workers if config.use_gpu else 0
    with (
        ray_runtime(waits_for={"CPU": config.num_workers + 1, "GPU": gpus}),
        followed(out, progress),
    ):
        trainer = TorchTrainer(
            _worker,
            train_loop_config=settings,
            scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu),
            run_config=RunConfig(name="aligner", storage_path=str(out / "ray")),
        )
        try:
            trainer.fit()
        except train.TrainingFailedError as exc:
            raise own_error(exc) from exc
    training = json.loads((out / SUMMARY_FILE).read_text("utf-8"))
    return {**training["summary"], "out": str(out)}


def _checked(data: str, config: IndexConfig) -> tuple[str, IndexConfig]:
    """The data's address, absolute, and the models that all workers load; what is wrong stops the job before
    it takes a worker."""
    if not data.startswith(INDEX_PREFIX):
        file = Path(data).resolve()
        if not read_rows(file):
            raise UsageError(f"{file} has no rows")
        return str(file), pinned(config, None)
    directory = index_directory(data.removeprefix(INDEX_PREFIX)).resolve()
    with Index(directory, config) as opened:
        opened.check_spaces()
        return INDEX_PREFIX + str(directory), opened.pinned()


def _worker(settings: dict[str, Any]) -> None:
    config, index = (
        AlignerTraining.model_validate(settings["config"]),
        IndexConfig.model_validate(settings["index"]),
    )
    out, rank, device = Path(settings["out"]), train.get_context().get_world_rank(), get_device()
    encoder, embedder = load_encoder(index.encoder), load_embedder(index.embedder)

    def prepare() -> Pairs:
        if settings["data"].startswith(INDEX_PREFIX):
            with Index(Path(settings["data"].removeprefix(INDEX_PREFIX)), index) as opened:
                return pairs_of_index(opened, config.held_out)
        file, on_progress = Path(settings["data"]), partial(tell, out, "encoding the pictures")
        cache = VectorCache(out / "cache" / "vectors.sqlite", encoder.cache_key)
        return pairs_of_file(read_rows(file), file.parent, encoder, embedder, cache, on_progress)

    pairs = prepare() if rank == 0 else None
    if config.num_workers > 1:
        torch.distributed.barrier()  # the others find the vectors in the cache
    pairs = pairs or prepare()
    spaces = encoder.space.fingerprint, embedder.space.fingerprint
    description = describe(pairs, len(encoder.scales), config, *spaces)
    train_it = partial(fit, pairs, description, config, rank, str(device), prepare_model)
    if rank:
        train_it()
        return
    with RunLog(out, 1, config.steps, partial(record, model="aligner")) as log:
        aligner = train_it(on_step=lambda step, loss: log.write(step, {"loss": loss}))
    summary: dict[str, Any] = {
        "pairs": len(pairs.of),
        "texts": len(pairs.texts),
        "skipped_pictures": pairs.skipped,
    }
    save(aligner, config, out, summary)
    save(aligner, config, out, summary | held_out_figures(aligner, pairs, config.seed))
