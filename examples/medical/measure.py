"""How well the medical assistant's threshold tells phantoms that are in no corpus from other pictures.

    python -m examples.medical.measure WORK SEED

WORK is the assistant's. The other pictures are spec sheets, photographed problems and drawn scenes, many of
them light and with dark marks, too. LEAST was chosen by what seed 1 gave; seed 2 is the check.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

from examples.maths import data as maths
from examples.medical import data
from examples.medical.assistant import LEAST, opened
from examples.product import data as product
from pipelines import KnowledgeBase


def jpeg(picture: Image.Image) -> bytes:
    picture.save(out := io.BytesIO(), "JPEG", quality=90)
    return out.getvalue()


def unrelated(seed: int) -> Iterator[Image.Image]:
    """Eight of each kind."""
    rng = random.Random(seed)
    for sheet in product.products(seed):
        yield sheet.draw()[0]
    for problem in rng.sample(maths.problems(seed), 8):
        yield maths.photographed(problem.draw(), rng)
    for number in range(8):
        scene = Image.new("RGB", (240, 240), tuple(rng.randrange(200, 256) for _ in range(3)))
        pen = ImageDraw.Draw(scene)
        for _ in range(rng.randrange(1, 4)):
            x, y, side = rng.randrange(150), rng.randrange(150), rng.randrange(30, 90)
            colour = (15, 15, 15) if number % 2 else tuple(rng.randrange(200) for _ in range(3))
            (pen.ellipse if rng.random() < 0.5 else pen.rectangle)((x, y, x + side, y + side), colour)
        yield scene


def similarity(kb: KnowledgeBase, picture: bytes) -> float:
    """Of the nearest case."""
    return kb.search(image=picture, mode="visually_similar", k=1).hits[0].scores["image_to_image"]


def main() -> None:
    work, seed = Path(sys.argv[1]), int(sys.argv[2])
    with opened(work) as kb:
        own = [similarity(kb, jpeg(phantom.draw())) for phantom in data.phantoms(seed)]
        other = [similarity(kb, jpeg(picture)) for picture in unrelated(seed)]
    for name, found in (("phantoms", own), ("others", other)):
        described = sum(cosine >= LEAST for cosine in found)
        print(f"{len(found)} {name}: {min(found):.3f} to {max(found):.3f}, {described} described")


if __name__ == "__main__":
    main()
