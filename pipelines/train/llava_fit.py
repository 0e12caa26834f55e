"""Does a step of the asked shape fit into memory, and if not, what would make it fit?

Each shape is tried with the real base model in a process of its own, so that a try that runs out of memory
harms nobody. Knows nothing of data or Ray.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import HashStore
from torch.distributed.device_mesh import init_device_mesh

from pipelines.core.errors import MmragError, UsageError
from pipelines.core.memory import host_memory
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_loop import Loop, Place
from pipelines.train.llava_model import IGNORED, base_directory, load_base, prepare_trainable, shard

_POLL_S = 0.05
_OUT_OF_MEMORY = "out of memory"
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Try:
    """One shape. `peak_bytes` is None where memory ran out before the step was done; the peak is then above
    `reached_bytes`."""

    change: str
    """The settings that differ from the asked ones, as `--set` takes them; empty for the asked shape."""
    peak_bytes: int | None
    reached_bytes: int
    fits: bool
    spare_bytes: int
    """Memory left over, or lacking where negative (at least so much where memory ran out)."""


@dataclass(frozen=True, slots=True)
class FitReport:
    device: str
    available_bytes: int
    asked: Try
    remedies: tuple[Try, ...]
    """Empty where the asked shape fits. Each keeps the global batch, so the same training comes out."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people: what fits, and by how much."""
        head = f"{self.available_bytes / _GIB:.2f} GiB are free on {self.device}"
        return [head, *(_line(one) for one in (self.asked, *self.remedies))]


def fit_report(config: LlavaTraining, available_bytes: int | None = None) -> FitReport:
    """Try one step with samples of `max_tokens` tokens, one picture and every other token learnt from.

    `available_bytes` bounds what may be used (default: what is free now). A GPU's figure is what torch
    allocates on it, a CPU's the resident memory of the whole process. One worker is tried, so under fsdp the
    peak is an upper bound: several share the weights. Raises UsageError and MmragError as training would.
    """
    base_directory(config.base_model)  # a missing one is told at once
    device = "cuda" if config.use_gpu else "cpu"
    free = _free_bytes(device)
    available = free if available_bytes is None else available_bytes
    asked = _try(config, "", device, available, free)
    remedies: list[Try] = []
    if not asked.fits:
        for change, changed in _remedies(config):
            remedies.append(_try(changed, change, device, available, free))
    return FitReport(device, available, asked, tuple(remedies))


def _remedies(config: LlavaTraining) -> Iterator[tuple[str, LlavaTraining]]:
    """Each change by itself, then those together that leave the base's weights exact, then the rest."""
    together: dict[str, Any] = {}
    if not config.gradient_checkpointing:
        together["gradient_checkpointing"] = True
        yield _changed(config, {"gradient_checkpointing": True})
    size = config.batch_size
    while size > 1:
        size = next(smaller for smaller in range(size // 2, 0, -1) if config.batch_size % smaller == 0)
        smaller = {"batch_size": size, "accumulate": config.batch_size * config.accumulate // size}
        yield _changed(config, smaller)
        if size == 1:
            together |= smaller
    if config.batch_size > 1 and not config.gradient_checkpointing:
        yield _changed(config, together)
    whole = config.train_all or config.train_language
    if config.use_gpu and config.quantize == "none" and config.strategy == "ddp" and not whole:
        yield _changed(config, together | {"quantize": "nf4"})
    sharded = not config.cpu_offload and config.optimizer == "adamw"
    if config.use_gpu and config.quantize == "none" and sharded:
        yield _changed(config, together | {"strategy": "fsdp", "cpu_offload": True, "compile": False})


def _changed(config: LlavaTraining, change: dict[str, Any]) -> tuple[str, LlavaTraining]:
    text = " ".join(f"{name}={str(value).lower()}" for name, value in change.items())
    return text, LlavaTraining.model_validate(config.model_dump() | change)


def _try(config: LlavaTraining, change: str, device: str, available: int, free: int) -> Try:
    program = [sys.executable, "-m", "pipelines.train.llava_fit", config.model_dump_json(), device]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(program, stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        try:
            highest, stopped = _watch(child, free if device == "cpu" else None)
        finally:
            child.kill()
            child.wait()
        answer = _last_line(out)
        if answer is None and not stopped and child.returncode != -9:  # the kernel kills for memory
            raise MmragError(f"one step could not be tried: {_last_text(err)}")
    if answer and "error" in answer:
        raise UsageError(str(answer["error"]))
    peak = answer.get("peak_bytes") if answer else None
    reached = int(answer["reached_bytes"]) if answer else highest
    fits = peak is not None and peak <= available
    return Try(
        change, peak, reached, fits, available - (peak if peak is not None else max(reached, available))
    )


def _watch(child: subprocess.Popen[bytes], limit: int | None) -> tuple[int, bool]:
    """(highest resident bytes seen, stopped). A CPU try is stopped before the machine begins to swap."""
    highest = 0
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            highest = max(highest, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        if limit is not None and highest > limit:
            child.kill()
            child.wait()
            return highest, True
        time.sleep(_POLL_S)
    child.wait()
    return highest, False


def _free_bytes(device: str) -> int:
    if device != "cpu":
        if not torch.cuda.is_available():
            raise UsageError("use_gpu is set, but torch sees no GPU here")
        return int(torch.cuda.mem_get_info()[0])
    return host_memory()


def _measure(config: LlavaTraining, device: str) -> dict[str, Any]:
    """In the child: one step, and the memory that it took."""
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        loop = _loop(config, device)
        # Two micro-batches stand for any number: gradients are there while activations are.
        batch = _batch(loop.trainable.llava.config, config)
        loop.step([batch] * min(2, config.accumulate))
    except torch.OutOfMemoryError:
        return {"peak_bytes": None, "reached_bytes": _peak_bytes(device), "reason": _OUT_OF_MEMORY}
    return {"peak_bytes": _peak_bytes(device), "reached_bytes": _peak_bytes(device)}


def _loop(config: LlavaTraining, device: str) -> Loop:
    if config.strategy == "ddp":
        trainable = prepare_trainable(load_base(config, device), config, device)
        return Loop(trainable, config, Place(device=device))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    mesh = init_device_mesh(device, (1,))
    trainable = prepare_trainable(load_base(config, "cpu"), config, device)
    return Loop(
        trainable, config, Place(device=device, wrap=lambda loss: shard(loss, mesh, config.cpu_offload))
    )


def _batch(shape: Any, config: LlavaTraining) -> dict[str, Tensor]:
    """Full samples: a picture, then text, of which every other token is learnt from."""
    vision = shape.vision_config
    pictures = (vision.image_size // vision.patch_size) ** 2
    if shape.vision_feature_select_strategy == "full":
        pictures += 1  # the class token
    if config.max_tokens <= pictures:
        raise UsageError(f"max_tokens is {config.max_tokens}, but a picture alone takes {pictures} tokens")
    text = next(token for token in range(shape.text_config.vocab_size) if token != shape.image_token_id)
    ids = torch.full((config.batch_size, config.max_tokens), text)
    ids[:, :pictures] = shape.image_token_id
    labels = ids.clone()
    labels[:, :pictures] = IGNORED
    labels[:, pictures::2] = IGNORED
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "pixel_values": torch.zeros(config.batch_size, 3, vision.image_size, vision.image_size),
    }


def _peak_bytes(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would count what the parent had when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _last_line(stream: IO[str]) -> dict[str, Any] | None:
    """What the child printed last: libraries may print before it."""
    lines = _last_text(stream).splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None


def _last_text(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read().strip()[-2000:]


def _line(one: Try) -> str:
    what = one.change or "as asked"
    if one.peak_bytes is None:
        return f"{what}: does not fit, ran out of memory at {one.reached_bytes / _GIB:.2f} GiB"
    verdict = "fits, {:.2f} GiB to spare" if one.fits else "does not fit, {:.2f} GiB too much"
    return f"{what}: {one.peak_bytes / _GIB:.2f} GiB, {verdict.format(abs(one.spare_bytes) / _GIB)}"


def _main() -> None:
    config = LlavaTraining.model_validate_json(sys.argv[1])
    try:
        answer = _measure(config, sys.argv[2])
    except UsageError as exc:
        answer = {"error": str(exc)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _main()
