"""Does a generator fit into the memory that there is? An estimate from its files, without torch.

Weights, the keys and values of one prompt of full length, and about 1 GiB to work in.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from pipelines.core.errors import MmragError, UsageError
from pipelines.core.local_models import footprint

_GIB = 2**30
_WORKING = _GIB  # activations, pictures, and what CUDA or Python itself takes
_NVIDIA_SMI_S = 5
_NO_MEMORY = "[N/A]"  # of its own: GPU and CPU share one
# Of control groups version 2 and 1: folder, limit, use, and what of the use the kernel gives back (files that
# were read, such as a model's), as the kubelet counts.
_CGROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes. `kv_a_token` is None where it is not known."""

    weights: int
    kv_a_token: int | None
    context: int

    @property
    def kv(self) -> int:
        return (self.kv_a_token or 0) * self.context

    @property
    def total(self) -> int:
        return self.weights + self.kv + _WORKING

    def __str__(self) -> str:
        kv = f"{self.kv / _GIB:.2f}" if self.kv_a_token else "an unknown part"
        return (
            f"about {self.total / _GIB:.2f} GiB: weights {self.weights / _GIB:.2f}, a prompt of "
            f"{self.context:,} tokens {kv}, to work in {_WORKING / _GIB:.0f}"
        )


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total: int
    free: int


def memory_needed(directory: Path, dtype: str, place: Literal["cpu", "gpu"], context: int) -> Need:
    """`dtype` auto is 2 bytes a number on a GPU; on a CPU it may be 4, so that is counted."""
    size = _FLOAT_BYTES.get(dtype, 2 if place == "gpu" else 4)
    found = footprint(directory, size)
    return Need(found.weights, found.kv_a_token, context)


def on_gpu(need: Need, cards: list[Gpu], share: float | None, split: int) -> str:
    """A line that says so if it fits on the roomiest `split` cards. Raises UsageError if it does not.

    `share`: what vLLM claims of each as it starts, whatever the model needs; it refuses to start where less
    is free (`request_memory` in vllm/v1/worker/utils.py), also with a `kv_cache_gib`. None: all that is free
    can be used, and nothing is claimed.
    """
    if len(cards) < split:
        raise UsageError(
            f"serve.vllm.tensor_parallel_size is {split}, but here are {len(cards)} GPUs: lower it"
        )
    used = sorted(cards, key=lambda card: card.free)[-split:]
    room = min(min(card.free, int(card.total * (share or 1))) for card in used)
    a_card = math.ceil((need.weights + need.kv) / split) + _WORKING
    where = f"{split} x {used[0].name}" if split > 1 else used[0].name
    if a_card <= room:
        _require_free(used, share or 0, a_card, where)
        return f"fits on {where}: {room / _GIB:.1f} GiB can be used of each card, it needs {need}"
    longest = ((room - _WORKING) * split - need.weights) // need.kv_a_token if need.kv_a_token else 0
    remedies = [f"generator.max_model_len={longest}"] if longest >= 1024 else []
    remedies += [f"serve.vllm.tensor_parallel_size={2 * split}"] if len(cards) >= 2 * split else []
    remedies += ["a smaller or quantised generator.model", "a GPU that nothing else uses"]
    raise UsageError(
        f"does not fit on {where}: {room / _GIB:.1f} GiB can be used of each card, it needs {need}; "
        f"what helps: {', or '.join(remedies)}"
    )


def _require_free(cards: list[Gpu], share: float, a_card: int, where: str) -> None:
    """Raises UsageError where vLLM would not start."""
    if not (short := [card for card in cards if card.free < card.total * share]):
        return
    lower = math.floor(100 * min((card.free - _WORKING) / card.total for card in cards)) / 100
    remedies = [f"serve.vllm.gpu_memory_utilization={lower}"] if a_card <= lower * cards[0].total else []
    remedies += ["a GPU that nothing else uses, such as a server that runs already"]
    claim, free = short[0].total * share / _GIB, short[0].free / _GIB
    raise UsageError(
        f"vLLM will not start on {where}: it claims {share:g} of each card, {claim:.1f} GiB, and {free:.1f} "
        f"are free; what helps: {', or '.join(remedies)}"
    )


def on_cpu(need: Need, free: int) -> str:
    """The same for a machine's memory."""
    told = f"no GPU is used here; on the CPU it needs {need}, and {free / _GIB:.1f} GiB are free"
    if need.total > free:
        raise UsageError(f"{told}: name a smaller generator.model, or lower generator.max_model_len")
    return told


def host_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that are free on this machine, or that its container may still take if those are fewer."""
    free, left = int(psutil.virtual_memory().available), _left_to_container(cgroups)
    return free if left is None else min(free, left)


def _left_to_container(cgroups: Path) -> int | None:
    """None where there is no limit."""
    for folder, limit, used, given_back in _CGROUPS:
        try:
            most, taken, stat = (
                (cgroups / folder / name).read_text() for name in (limit, used, "memory.stat")
            )
        except FileNotFoundError:
            continue
        if most.strip() == "max":
            break
        counts = dict(line.split() for line in stat.splitlines())
        return max(0, int(most) - int(taken) + int(counts.get(given_back, 0)))
    return None


def gpus() -> list[Gpu]:
    """This machine's, as the NVIDIA driver tells; none where there is no driver. One without memory of its
    own has the machine's. Raises MmragError for a driver that does not answer, or tells no memory."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, text=True, check=True, timeout=_NVIDIA_SMI_S
        )
    except (subprocess.SubprocessError, OSError) as exc:
        raise MmragError(
            f"nvidia-smi does not tell which GPUs there are ({exc}): is the driver well?"
        ) from exc
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [_gpu(row) for row in rows]


def _gpu(row: list[str]) -> Gpu:
    if len(row) == 3 and row[1:] == [_NO_MEMORY] * 2:
        memory = psutil.virtual_memory()
        return Gpu(row[0], int(memory.total), int(memory.available))
    try:
        name, total, free = row
        return Gpu(name, int(total) * 2**20, int(free) * 2**20)
    except ValueError as exc:
        raise MmragError(f"nvidia-smi does not tell a GPU's memory: {', '.join(row)}") from exc
