"""Where a torch model runs and in which dtype. Imported only by what needs torch anyway."""

from __future__ import annotations

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
