"""Where a torch model runs and in which dtype. Imported only by what needs torch anyway."""

from __future__ import annotations

import ctypes
import sys

import torch


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
