"""What decoding small and the shared average save, and what they change. Needs scikit-image's photographs.

    python benchmarks/decode.py

Each line compares two ways on one picture, in interleaved pairs of one process, by CPU time: the ratio is
the median of the pairs' ratios, the interval is the lowest and highest. `change` is the mean and largest
difference of the three scales' pixels, in levels of 255.
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import images

PAIRS = 15
SIDES = (224, 336, 448)
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
)

Scales = tuple[NDArray[np.uint8], ...]


def photographs() -> Iterator[tuple[str, bytes]]:
    folder = Path(skimage.__file__).parent / "data"
    for name in PHOTOGRAPHS:
        yield name, (folder / name).read_bytes()
    # A telephone's picture: a photograph enlarged, with grain, for a smooth JPEG decodes too fast.
    for name, size in (("coffee, 3 MP", (2048, 1536)), ("coffee, 12 MP", (4032, 3024))):
        with Image.open(folder / "coffee.png") as photograph:
            large = np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        grain = np.random.default_rng(0).normal(0, 6, large.shape)
        out = io.BytesIO()
        Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
        yield name, out.getvalue()


def decode_whole(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def resize_each(image: Image.Image) -> Scales:
    return tuple(np.array(image.resize((side, side), Image.Resampling.BICUBIC)) for side in SIDES)


def compare(label: str, plain: Callable[[], object], ours: Callable[[], object]) -> str:
    plain_s, ours_s = [], []
    for _ in range(PAIRS):
        plain_s.append(seconds(plain))
        ours_s.append(seconds(ours))
    ratios = sorted(before / after for before, after in zip(plain_s, ours_s, strict=True))
    return (
        f"{label:8} {statistics.median(plain_s) * 1e3:7.1f} ms -> {statistics.median(ours_s) * 1e3:6.1f} ms"
        f"   x {statistics.median(ratios):5.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def seconds(work: Callable[[], object]) -> float:
    """CPU time: all of it is one thread's, and the machine is shared."""
    start = time.process_time()
    work()
    return time.process_time() - start


def change(before: Scales, after: Scales) -> str:
    differences = [np.abs(old.astype(int) - new) for old, new in zip(before, after, strict=True)]
    mean = statistics.mean(float(difference.mean()) for difference in differences)
    return f"change {mean:.2f} (at most {max(int(difference.max()) for difference in differences)})"


def report(name: str, data: bytes) -> None:
    whole, picture = decode_whole(data), images.decode(data)
    undrafted = images.Picture(whole, *whole.size)
    drafted = picture.image.size != whole.size
    print(f"{name}: {whole.width} x {whole.height}, {len(data) / 1e6:.2f} MB", end="")
    print(f", decoded at {picture.image.width} x {picture.image.height}" if drafted else "")
    print("  ", compare("decode", lambda: decode_whole(data), lambda: images.decode(data)))
    print("  ", compare("scales", lambda: resize_each(whole), lambda: images.pyramid(undrafted, SIDES)))
    print(
        "  ",
        compare(
            "both",
            lambda: resize_each(decode_whole(data)),
            lambda: images.pyramid(images.decode(data), SIDES),
        ),
    )
    print("  ", change(resize_each(whole), images.pyramid(picture, SIDES)))


def main() -> None:
    for name, data in photographs():
        report(name, data)


if __name__ == "__main__":
    main()
