"""Packed linear layers give what plain ones give."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from pipelines.core.packed import pack_linears

PACKS = torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()
DTYPES = [torch.float32, *([torch.bfloat16] if torch.ops.mkldnn._is_mkldnn_bf16_supported() else [])]
packs = pytest.mark.skipif(not PACKS, reason="this machine packs nothing")


class Other(nn.Linear):
    """One with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1


class Mlp(nn.Module):
    def __init__(self, activation: str, bias: bool = True) -> None:
        super().__init__()
        self.activation_fn = ACT2FN[activation]
        self.fc1, self.fc2 = nn.Linear(48, 96, bias=bias), nn.Linear(96, 48, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(x)))


def assert_same(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The packed model."""
    model = model.to(dtype).eval()
    packed = copy.deepcopy(model)
    pack_linears(packed)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for shape in ((1, 48), (3, 7, 48), (16, 50, 48)):
        x = torch.randn(shape, dtype=dtype)
        torch.testing.assert_close(packed(x), model(x), atol=tolerance, rtol=tolerance)
    return packed


@packs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.inference_mode()
def test_a_packed_model_gives_the_same_for_any_batch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 20, bias=False))
    packed = assert_same(nn.Sequential(nn.LayerNorm(48), inner, Other(20, 20)), dtype)
    assert [type(layer).__name__ for layer in packed[1]] == ["_Packed", "GELU", "_Packed"]
    assert type(packed[2]) is Other


@packs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("activation", "kind"),
    [("quick_gelu", "Sequential"), ("gelu", "Sequential"), ("relu", "Mlp")],
)
@torch.inference_mode()
def test_an_activation_that_can_be_is_a_part_of_the_product(
    activation: str, kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    packed = assert_same(nn.Sequential(Mlp(activation), Mlp(activation, bias=False)), dtype)
    assert [type(layer).__name__ for layer in packed] == [kind, kind]


def test_half_precision_that_the_cpu_has_not_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4)).half()
    pack_linears(model)
    assert type(model[0]) is nn.Linear
