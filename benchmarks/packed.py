"""What packed linear layers are worth: CLIP's ViT-B/32 with random weights, on one thread of a CPU.

    python benchmarks/packed.py [--pairs 15] [--batch 16]

Plain Transformers and the same model after `pack_linears` encode the same pixels in turn; what is compared is
processor time, which other work on the machine disturbs less than the clock.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
from measure import ratio
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pipelines.core.packed import pack_linears


def seconds(model: Any, pixels: torch.Tensor) -> float:
    start = time.thread_time()
    model(pixel_values=pixels)
    return time.thread_time() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32, projection_dim=512
    )
    whole = CLIPVisionModelWithProjection(config).eval()
    pixels = torch.randn(args.batch, 3, 224, 224)
    exact = whole(pixel_values=pixels).image_embeds
    for dtype in (torch.float32, torch.bfloat16):
        plain = copy.deepcopy(whole).to(dtype)
        packed = copy.deepcopy(plain)
        pack_linears(packed)
        given = pixels.to(dtype)
        rates: dict[str, list[float]] = {"plain": [], "packed": []}
        for model in (plain, packed):
            seconds(model, given)
        for _ in range(args.pairs):
            for name, model in (("plain", plain), ("packed", packed)):
                rates[name].append(args.batch / seconds(model, given))
        apart = [
            1 - torch.cosine_similarity(model(pixel_values=given).image_embeds.float(), exact).min().item()
            for model in (plain, packed)
        ]
        best = ", ".join(f"{max(found):.1f}" for found in rates.values())
        gain = ratio(rates["packed"], rates["plain"])
        print(f"{dtype}: packed / plain {gain}; pictures a second of a thread "
              f"{best}; 1 - cosine to float32 at most {apart[0]:.1g}, {apart[1]:.1g}")  # fmt: skip


if __name__ == "__main__":
    main()
