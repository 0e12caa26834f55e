"""How fast a GPU encodes pictures with `clip`, and what of that the model alone reaches.

    python benchmarks/encode_gpu.py [--pairs 5] [--pictures 512] [--batch 16] [--compile]
    python benchmarks/encode_gpu.py --tiny   # a small model, on a CPU too: tries the script, measures nothing

Random weights of ViT-L/14's shape, float16, at 224, 336 and 448 pixels. In each pair, in turn:

- encode: `Encoder.encode_images` over decoded pictures, uint8 in memory, to vectors in memory;
- forward: transformers' own model, not compiled, over the same batches, which lie on the GPU as its inputs;
- matmul: products of two float16 matrices of 8,192 rows and columns.

Each has run once before. The operations of a picture are counted from the model's shape, two a
multiply-add, so that the rates of the first two can be told as shares of the third's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from measure import ratio, seconds
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

from pipelines.core.clip_description import MEAN, STD
from pipelines.core.encoder import Encoder, EncoderConfig, Pixels, load_encoder


@dataclass(frozen=True, slots=True)
class Size:
    """A model, and what it is measured on."""

    vision: dict[str, int]
    scales: tuple[int, ...]
    dtype: str
    matrix: int
    """Rows and columns."""
    products: int
    """How many of two matrices make one measurement."""


VIT_L14 = Size(
    {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    scales=(224, 336, 448),
    dtype="float16",
    matrix=8192,
    products=50,
)
TINY = Size(
    {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 16,
    },
    scales=(64, 96, 128),
    dtype="float32",
    matrix=512,
    products=5,
)


def save(size: Size, out: Path) -> CLIPVisionConfig:
    """The model with random weights, in `out`. Its text tower is not used, and small."""
    text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=text, vision_config=size.vision, projection_dim=768)
    torch.manual_seed(0)
    CLIPModel(config).to(getattr(torch, size.dtype)).save_pretrained(out)
    return config.vision_config


def operations(vision: CLIPVisionConfig, side: int) -> int:
    """Of one picture: patches, projections, attention and MLPs; the rest is less than 1 %."""
    patches, width = (side // vision.patch_size) ** 2, vision.hidden_size
    tokens = patches + 1
    layer = tokens * width * (4 * width + 2 * vision.intermediate_size) + 2 * tokens**2 * width
    embedding = patches * 3 * vision.patch_size**2 * width
    return 2 * (embedding + vision.num_hidden_layers * layer)


def forward_pass(
    directory: Path, encoder: Encoder, pyramids: list[list[Pixels]], dtype: torch.dtype
) -> Callable[[], None]:
    """The bare model over inputs that are made here, in batches as large as the encoder's."""
    device = encoder.model.device
    model = CLIPModel.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa").to(device).eval()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    batches = []
    for side, pixels in zip(encoder.scales, zip(*pyramids, strict=True), strict=True):
        at_once = encoder.batch_at(side)
        for first in range(0, len(pixels), at_once):
            batch = torch.from_numpy(np.stack(pixels[first : first + at_once])).to(device)
            batches.append(((batch.permute(0, 3, 1, 2).float() - mean) / std).to(dtype))

    @torch.inference_mode()
    def run() -> None:
        for batch in batches:
            model.get_image_features(pixel_values=batch, interpolate_pos_encoding=True)
        finish(device)

    return run


def matrix_products(size: Size, device: str, dtype: torch.dtype) -> Callable[[], None]:
    left, right = (torch.randn(size.matrix, size.matrix, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)

    def run() -> None:
        for _ in range(size.products):
            torch.matmul(left, right, out=out)
        finish(device)

    return run


def finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(size: Size, pictures: int, pairs: int, settings: dict[str, object], directory: Path) -> None:
    vision = save(size, directory)
    config = {"kind": "clip", "model": str(directory), "scales": size.scales, "dtype": size.dtype}
    encoder = load_encoder(EncoderConfig.model_validate(config | settings))
    dtype, device = getattr(torch, size.dtype), encoder.model.device
    rng = np.random.default_rng(0)
    pyramids = [
        [rng.integers(0, 256, (side, side, 3), np.uint8) for side in size.scales] for _ in range(pictures)
    ]
    work: dict[str, Callable[[], object]] = {
        "encode": lambda: encoder.encode_images(pyramids),
        "forward": forward_pass(directory, encoder, pyramids, dtype),
        "matmul": matrix_products(size, device, dtype),
    }
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    batches = ", ".join(f"{encoder.batch_at(side)} of {side} pixels" for side in size.scales)
    print(f"{name}, {size.dtype}, torch {torch.__version__}, batches: {batches}", flush=True)
    for run in work.values():
        run()
    picture = sum(operations(vision, side) for side in size.scales)
    count = {"encode": pictures * picture, "forward": pictures * picture}
    count["matmul"] = size.products * 2 * size.matrix**3
    found: dict[str, list[float]] = {what: [] for what in work}  # in operations a second
    for number in range(1, pairs + 1):
        for what, run in work.items():
            found[what].append(count[what] / seconds(run))
        encode, forward, matmul = (rates[-1] for rates in found.values())
        print(
            f"  pair {number}: encode {encode / picture:.1f}, forward {forward / picture:.1f} pictures/s; "
            f"{encode / 1e12:.3g}, {forward / 1e12:.3g}, matmul {matmul / 1e12:.3g} TFLOP/s",
            flush=True,
        )
    for one, other in (("encode", "forward"), ("forward", "matmul"), ("encode", "matmul")):
        print(f"{one} / {other}: {ratio(found[one], found[other])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--batch", type=int, default=EncoderConfig().batch_size, help="encoder.batch_size")
    parser.add_argument("--compile", action="store_true", help="encoder.compile")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        print("no GPU is here to be measured; --tiny tries the script on a CPU")
        return
    settings = {"batch_size": arguments.batch, "compile": arguments.compile}
    size = TINY if arguments.tiny else VIT_L14
    with tempfile.TemporaryDirectory() as directory:
        measure(size, arguments.pictures, arguments.pairs, settings, Path(directory))


if __name__ == "__main__":
    main()
