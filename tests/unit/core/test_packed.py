"""Packed linear layers give what plain ones give."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pipelines.core.packed import pack_linears

PACKS = torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()
DTYPES = [torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])]


class Other(nn.Linear):
    """One with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


@pytest.mark.skipif(not PACKS, reason="this machine packs nothing")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_a_packed_model_gives_the_same_for_any_batch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 20, bias=False))
    model = nn.Sequential(nn.LayerNorm(48), inner, Other(20, 20)).to(dtype).eval()
    packed = copy.deepcopy(model)
    pack_linears(packed)
    assert [type(layer).__name__ for layer in packed[1]] == ["_Packed", "GELU", "_Packed"]
    assert type(packed[2]) is Other
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for shape in ((1, 48), (3, 7, 48), (16, 50, 48)):
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(packed(x), model(x), atol=tolerance, rtol=tolerance)


def test_half_precision_that_the_cpu_has_not_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).half()
    pack_linears(model)
    assert type(model[0]) is nn.Linear
