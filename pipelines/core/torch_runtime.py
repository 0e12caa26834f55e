"""Where a torch model runs and in which dtype, how pictures get there, and what it lacks. Knows no model.

Imported only by what needs torch anyway.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.core.errors import MissingDependency, OutOfMemory


def pick_device(device: str) -> str:
    """`auto` is the first GPU where there is one, else the CPU; anything else is taken as it is."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto` is float16 on a GPU; on a CPU bfloat16 where it is native (AMX, AVX512-bf16), else float32."""
    if dtype == "auto":
        if device.startswith("cuda"):
            return torch.float16
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


def on_device(pixels: NDArray[np.uint8], device: str) -> torch.Tensor:
    """The pixels as they are, uint8, on the device: floats are made there, of which a copy takes longer.

    A GPU reads page-locked memory by itself, and the CPU goes on to what comes after the copy.
    """
    host = torch.from_numpy(np.ascontiguousarray(pixels))
    if not device.startswith("cuda"):
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


@contextmanager
def own_memory_error() -> Iterator[None]:
    """Torch's out of memory, raised as ours: whoever makes the batch smaller need not import torch."""
    try:
        yield
    except torch.OutOfMemoryError as exc:
        raise OutOfMemory(str(exc)) from exc


def require_compiler(setting: str) -> None:
    """Raise MissingDependency where torch.compile, which `setting` asks for, has nothing to compile with."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise MissingDependency(f"compile needs a C++ compiler: install g++, or set {setting} to false")


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP_BYTES = 2**30


def keep_freed_memory() -> None:
    """Have glibc keep large freed blocks for the next batch. For processes that only encode.

    By default it hands every activation back to the kernel, and mapping pages anew took up to half of
    the CPU time of an encoder of small pictures. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
