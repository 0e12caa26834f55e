"""`train llava` on Ray Train, with actors that read for each worker. Only wires the modules beside it."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch
from pydantic import TypeAdapter, ValidationError
from ray import train
from ray.exceptions import RayTaskError
from ray.train import CheckpointConfig, CheckpointUploadMode, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from pipelines.core.adapter import base_identity
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.files import replace_file
from pipelines.core.prompts import PROMPT_VERSION
from pipelines.core.ray_metrics import record
from pipelines.core.ray_runtime import ray_runtime
from pipelines.core.torch_runtime import require_compiler
from pipelines.train.conversations import data_hash
from pipelines.train.job import own_error
from pipelines.train.llava_batch import Prepare, load_processor
from pipelines.train.llava_checkpoint import made_by, require_own
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_export import Kind, require_exportable, require_room
from pipelines.train.llava_feed import (
    LoadExamples,
    held_out_batches,
    loaded,
    places,
    require_usable,
    to_batch,
)
from pipelines.train.llava_loop import Batch, Loop, Place
from pipelines.train.llava_model import base_directory, in_own_frame, load_base, prepare_trainable, shard
from pipelines.train.llava_plan import Origin, Part, Plan, SkipLog, make_plan, write_rejected
from pipelines.train.llava_run import Progress, resume, run
from pipelines.train.run_log import RunLog, draw_curve, followed, read_steps, require_curve

ReportProgress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is)."""

SUMMARY_FILE = "summary.json"
_CHECKPOINTS, _RUN = "checkpoints", "run"
# In Ray's count of CPUs. Reading shares what the workers leave.
_LOADER_CPUS = 0.5


@dataclass(frozen=True, slots=True)
class LlavaSummary:
    """What a run did. Losses are nats per answer token; `tokens_per_s` is of all workers together.

    `shortened` samples are trained on without their last turns, which `max_tokens` does not hold.
    """

    samples: int
    held_out: int
    rejected: int
    shortened: int
    step: int
    steps_run: int
    stopped_early: bool
    loss: float
    best_eval_loss: float | None
    tokens_per_s: float
    peak_memory_mb: float
    elapsed_s: float
    checkpoint: str
    curve: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def train_llava(
    data: Path,
    out: Path,
    config: LlavaTraining,
    progress: ReportProgress = lambda what, done, total: None,
    export: Kind | None = None,
) -> LlavaSummary:
    """Fine-tune `config.base_model` on conversations, or take up a run that `out` holds.

    `out` is shared by all workers; checkpoints, figures, the curve, the refused rows and in the end the
    summary are in it. A run that is done is not started again: its summary is returned, with no `steps_run`.
    `export`: what the caller is going to write into `out` by `export_llava`, under this name.
    Raises UsageError for data, a model or settings that cannot be used, for an `out` of another run and for
    an `export` that will not be possible, all before a worker starts; MmragError where training fails.
    """
    start = time.perf_counter()
    require_curve()
    if export:
        require_exportable(config, export)
    progress("reading the data", 0, 0)
    if config.compile:
        require_compiler("train.llava.compile")
    base = base_directory(config.base_model)
    config = in_own_frame(_found_anywhere(config, base), base)
    origin, out = _origin(base, data, config), out.resolve()
    if (done := _finished(out, config, origin)) is not None:
        return done
    plan = _plan(data, out, config, origin, base, export)
    out.mkdir(parents=True, exist_ok=True)
    (out / SUMMARY_FILE).unlink(missing_ok=True)  # of fewer steps
    write_rejected(out, plan)
    progress("starting the workers", 0, 0)
    trainer = _trainer(out, config, plan, origin)
    cpus = math.ceil(config.num_workers * (1 + config.loaders * _LOADER_CPUS))
    gpus = config.num_workers if config.use_gpu else 0
    with ray_runtime(waits_for={"CPU": cpus, "GPU": gpus}), followed(out, progress):
        result = _fit(trainer)
    outcome = dict(result.return_value)
    if "error" in outcome:
        raise (UsageError if outcome["exit_status"] == UsageError.exit_status else MmragError)(
            outcome["error"]
        )
    summary = _summary(out, plan, outcome, result, time.perf_counter() - start)
    replace_file(out / SUMMARY_FILE, json.dumps(summary.as_dict(), indent=2) + "\n")
    return summary


def _found_anywhere(config: LlavaTraining, base: Path) -> LlavaTraining:
    """With whole paths: workers run in directories of their own, and a run may be taken up from another."""
    whole: dict[str, object] = {}
    if Path(config.base_model).is_dir():
        whole["base_model"] = str(base.resolve())
    if config.image_root:
        whole["image_root"] = config.image_root.absolute()
    return config.model_copy(update=whole)


def _origin(base: Path, data: Path, config: LlavaTraining) -> Origin:
    eval_hash = data_hash(config.eval_data) if config.eval_data else ""
    return Origin(base_identity(base), data_hash(data), PROMPT_VERSION, eval_hash)


def _plan(
    data: Path, out: Path, config: LlavaTraining, origin: Origin, base: Path, export: Kind | None
) -> Plan:
    """What is to be read, once all is known to be in order that would end the run later."""
    prepare = _prepare(config)  # refuses a model that has no template
    checkpoints = list((out / _CHECKPOINTS / _RUN).glob("checkpoint_*"))
    require_own(checkpoints, config, origin)
    if export:
        require_room(out / export, export, config, origin, base, taken_up=bool(checkpoints))
    plan = make_plan(data, config)
    require_usable(plan.held_out, prepare)
    return plan


def _trainer(out: Path, config: LlavaTraining, plan: Plan, origin: Origin) -> TorchTrainer:
    return TorchTrainer(
        _worker,  # type: ignore[arg-type]  # what rank 0 returns is Result.return_value; the hint is older
        train_loop_config={"config": config, "out": out, "plan": plan, "origin": origin},
        scaling_config=ScalingConfig(num_workers=config.num_workers, use_gpu=config.use_gpu),
        run_config=RunConfig(
            name=_RUN,
            storage_path=str(out / _CHECKPOINTS),
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=_kept(config, plan),
        ),
    )


def _finished(out: Path, config: LlavaTraining, origin: Origin) -> LlavaSummary | None:
    """What the same command told when it had done all its steps, if it had; as of a job started again."""
    try:
        told = TypeAdapter(LlavaSummary).validate_json((out / SUMMARY_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if not made_by(Path(told.checkpoint), config, origin):
        return None
    return replace(told, steps_run=0)


def _kept(config: LlavaTraining, plan: Plan) -> CheckpointConfig:
    if not len(plan.held_out):
        return CheckpointConfig(num_to_keep=config.keep_checkpoints)
    return CheckpointConfig(
        num_to_keep=config.keep_checkpoints,
        checkpoint_score_attribute="eval_loss",
        checkpoint_score_order="min",
    )


def _fit(trainer: TorchTrainer) -> Any:
    try:
        return trainer.fit()
    except train.TrainingFailedError as exc:
        cause = own_error(exc)
        if isinstance(cause, MmragError):
            raise cause from exc
        raise MmragError(
            f"training failed: {' '.join(str(exc).split())[:2000]}; the last checkpoint is as it was: run "
            "the same command again to go on from it"
        ) from exc


def _summary(out: Path, plan: Plan, outcome: dict[str, Any], result: Any, elapsed_s: float) -> LlavaSummary:
    steps = [record for record in read_steps(out) if "loss" in record]
    left_out = write_rejected(out, plan)
    judged = [record["eval_loss"] for record in read_steps(out) if "eval_loss" in record]
    best = result.checkpoint
    if judged:
        best = min(result.best_checkpoints, key=lambda pair: pair[1]["eval_loss"])[0]
    return LlavaSummary(
        samples=len(plan.train),
        held_out=len(plan.held_out),
        rejected=sum(not one.dropped_turns for one in left_out),
        shortened=sum(one.dropped_turns > 0 for one in left_out),
        loss=round(steps[-1]["loss"], 6),
        best_eval_loss=round(min(judged), 6) if judged else None,
        elapsed_s=round(elapsed_s, 1),
        checkpoint=str(best.path),
        curve=str(draw_curve(out, "train llava")),
        **outcome,
    )


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs. Our own errors are the same on all of them and no reason to try again."""
    try:
        return _train(settings["config"], settings["out"], settings["plan"], settings["origin"])
    except MmragError as exc:
        return {"error": str(exc), "exit_status": exc.exit_status}


def _train(config: LlavaTraining, out: Path, plan: Plan, origin: Origin) -> dict[str, Any]:
    context, device = train.get_context(), get_device()
    rank, world = context.get_world_rank(), context.get_world_size()
    if device.type == "cpu":
        torch.set_num_threads(
            config.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
        )
    load_prepare = partial(_prepare, config)
    loaders = [  # first: they start while the model is loaded
        _Loader.remote(plan.train, load_prepare)  # type: ignore[attr-defined]  # Ray makes it
        for _ in range(config.loaders)
    ]
    name = str(device)
    trainable = prepare_trainable(
        load_base(config, "cpu" if config.strategy == "fsdp" else name), config, name
    )
    loop = Loop(trainable, config, Place(rank, world, name, partial(_wrapped, config, world, device)))
    progress = Progress()
    if (checkpoint := train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as directory:
            progress = resume(Path(directory), loop, origin)
    prepare, skips = load_prepare(), SkipLog(out, rank)
    held_out = partial(held_out_batches, plan.held_out, prepare, config.batch_size, rank, world, skips.add)
    first, recorded = loop.steps_done + 1, partial(record, model="llava")
    with RunLog(out, first, config.steps, recorded) if rank == 0 else nullcontext() as log:
        batches = _batches(config, plan, loop, prepare, loaders, skips)
        report = partial(_report, out, rank)
        return run(
            loop, config, batches, held_out if len(plan.held_out) else None, progress, origin, report, log
        ).as_dict()


def _wrapped(config: LlavaTraining, world: int, device: torch.device, loss: nn.Module) -> nn.Module:
    if config.strategy == "fsdp":
        return shard(loss, init_device_mesh(device.type, (world,)), config.cpu_offload)
    if world == 1:
        return loss
    return DistributedDataParallel(loss, device_ids=[device] if device.type == "cuda" else None)


def _prepare(config: LlavaTraining) -> Prepare:
    return Prepare(load_processor(base_directory(config.base_model)), config.frame, config.max_tokens)


def _batches(
    config: LlavaTraining,
    plan: Plan,
    loop: Loop,
    prepare: Prepare,
    loaders: Sequence[Any],
    skips: SkipLog,
) -> Iterator[Batch]:
    """This worker's micro-batches from where the loop stands. Other processes read and tokenise ahead.

    Actors, and not Ray Data: its executor, held back by a slower reader, spins in this very process.
    """
    rank, world = loop.place.rank, loop.place.world
    wanted = places(plan.train, config, loop.steps_done, rank, world, prepare.shape.tokens_per_image)
    cuts = [wanted.slice(first, config.batch_size) for first in range(0, len(wanted), config.batch_size)]
    ahead = config.accumulate + 2 * config.loaders
    coming: deque[ray.ObjectRef[Any]] = deque()
    for number, cut in enumerate(cuts):
        while len(coming) < ahead and number + len(coming) < len(cuts):
            at = number + len(coming)
            coming.append(loaders[at % len(loaders)].load.remote(cuts[at]))
        try:
            table = ray.get(coming.popleft())
        except RayTaskError as exc:
            raise own_error(exc) from exc
        assert table["place"].equals(cut["place"]), "samples came in another order"
        examples, refused = loaded(table, prepare.shape.side)
        skips.add(refused)
        yield to_batch(examples, prepare)


@ray.remote(num_cpus=_LOADER_CPUS, max_restarts=-1, max_task_retries=-1)
class _Loader:
    """Reads and tokenises in a process of its own; one that is lost is started again, its batches too."""

    def __init__(self, part: Part, load_prepare: Callable[[], Prepare]) -> None:
        self._load = LoadExamples(part, load_prepare)

    def load(self, wanted: pa.Table) -> pa.Table:
        return self._load(wanted)


def _report(out: Path, rank: int, figures: dict[str, float], write: Callable[[Path], None]) -> None:
    """Hand a checkpoint to Ray, which moves it to its place while training goes on."""
    directory = out / f".checkpoint-{figures['step']}"
    write(directory)  # by all, since weights may be sharded; rank 0 has the files
    checkpoint = train.Checkpoint.from_directory(str(directory)) if rank == 0 else None
    train.report(figures, checkpoint, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
