"""Linear layers for inference on a CPU, their weights laid out once for its vector units. Knows no model.

torch does this layout anew at each call, and passes over memory again for what stands behind a product; what
a whole ViT-B/32 gains by it stands in benchmarks/packed.md.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation, QuickGELUActivation

# What oneDNN applies to a product that is still in registers: its name, its variant, and the s for which the
# activation is that of (s x), divided by s: x sigmoid(1.702 x), the quick GELU, is so by swish of 1.702 x.
_FUSED = {QuickGELUActivation: ("swish", "", 1.702), GELUActivation: ("gelu", "none", 1.0)}


def pack_linears(model: nn.Module) -> None:
    """Replace the model's linear layers, in place, by packed ones: equal but for the order of the sums.

    Of a transformer's MLP (`fc1`, `activation_fn`, `fc2`) the activation goes into the first one. What is
    packed has no weights to train or to save. On another device, and where the CPU is no x86, the layers stay
    as they are.
    """
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if available and "AVX" in torch.backends.cpu.get_cpu_capability():
        _pack(model)


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        if _is_mlp(child):
            setattr(module, name, _packed_mlp(child))
        elif _is_linear(child):
            setattr(module, name, _Packed(child))
        else:
            _pack(child)


def _is_linear(module: nn.Module | None) -> TypeGuard[nn.Linear]:
    if type(module) is not nn.Linear or module.weight.device.type != "cpu":
        return False
    dtype = module.weight.dtype
    native = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float32 or native


def _is_mlp(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    linear = _is_linear(parts.get("fc1")) and _is_linear(parts.get("fc2"))
    return (
        linear
        and parts.keys() <= {"fc1", "fc2", "activation_fn"}
        and type(parts.get("activation_fn")) in _FUSED
    )


class _Packed(nn.Module):
    """What torch's own compiler makes of a linear layer; the two operators are not public."""

    def __init__(self, linear: nn.Linear, scales: tuple[float, float] = (1, 1), fused: str = "none",
                 variant: str = "") -> None:  # fmt: skip
        """The layer with its (weights, biases) multiplied by `scales`, and then what is `fused`."""
        super().__init__()
        weight, bias = (
            None if of is None else (of.detach().float() * scale).to(of.dtype)
            for of, scale in zip((linear.weight, linear.bias), scales, strict=True)
        )
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias
        self._fused = fused, variant

    def forward(self, x: Tensor) -> Tensor:
        name, variant = self._fused
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, name, [], variant)
        return product


def _packed_mlp(mlp: Any) -> nn.Module:
    name, variant, scale = _FUSED[type(mlp.activation_fn)]
    first = _Packed(mlp.fc1, (scale, scale), name, variant)
    return nn.Sequential(first, _Packed(mlp.fc2, (1 / scale, 1)))
