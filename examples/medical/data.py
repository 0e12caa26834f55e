"""Draw the medical assistant's corpus: phantoms, drawings in the manner of an X-ray film, with captions.

    python -m examples.medical.data FOLDER

No picture of a person is in it, and nothing is taken from one: a phantom is a light film with gray shapes for
bones, faint because tiny-llava takes what is not for a shape, and in most of them a black mark. The same seed
gives the same pictures.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

Box = tuple[float, float, float, float]
VIEWS = {"forearm": "前臂", "hand": "手部", "ribs": "肋骨"}
MARKS = {"circle": ("a black circle", "一个黑色圆形"), "rectangle": ("a black rectangle", "一个黑色矩形")}
_NOTHING = ("no mark", "无标记")
_SAID = ("Phantom drawing, {view}: {mark}{size}.", "体模绘图，{view}：{mark}{size}。")


@dataclass(frozen=True)
class Phantom:
    """`mark` is a key of MARKS or empty; `box` is where it stands, in pixels."""

    view: str
    mark: str
    size: tuple[int, int]
    box: Box
    seed: int

    def caption(self, *, chinese: bool) -> str:
        mark = MARKS.get(self.mark, _NOTHING)[chinese]
        across = round(100 * (self.box[2] - self.box[0]) / self.size[0])
        size = (", {} % of the width", "，宽度的 {} %")[chinese].format(across) if self.mark else ""
        view = VIEWS[self.view] if chinese else self.view
        return _SAID[chinese].format(view=view, mark=mark, size=size)

    def draw(self) -> Image.Image:
        rng = random.Random(self.seed)
        wide, tall = self.size
        film = rng.randrange(222, 244)
        image = Image.new("L", self.size, film)
        pen = ImageDraw.Draw(image)
        bone = film - rng.randrange(10, 16)
        for left, top, right, bottom in _BONES[self.view]:
            shift = rng.uniform(-0.02, 0.02)
            corners = ((left + shift) * wide, top * tall, (right + shift) * wide, bottom * tall)
            pen.rounded_rectangle(corners, 0.04 * wide, bone)
        image = image.filter(ImageFilter.GaussianBlur(2))
        pen = ImageDraw.Draw(image)
        if self.mark == "circle":
            pen.ellipse(self.box, 12)
        elif self.mark:
            pen.rectangle(self.box, 12)
        noise = Image.frombytes("L", self.size, rng.randbytes(wide * tall))
        return Image.blend(image, noise, 0.02).convert("RGB")


_BONES: dict[str, tuple[Box, ...]] = {  # fractions of the film's width and height
    "forearm": ((0.3, 0.04, 0.43, 0.96), (0.55, 0.04, 0.7, 0.96)),
    "hand": (
        *((0.1 + 0.17 * n, 0.06 + 0.05 * abs(n - 2), 0.2 + 0.17 * n, 0.55) for n in range(5)),
        (0.12, 0.6, 0.86, 0.94),
    ),
    "ribs": tuple((0.06, 0.08 + 0.16 * n, 0.94, 0.15 + 0.16 * n) for n in range(6)),
}


def phantoms(seed: int = 0, count: int = 18) -> tuple[Phantom, ...]:
    """Of nine in a row one of each view and mark, no mark being one of the three."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        wide, tall = rng.randrange(220, 300), rng.randrange(220, 300)
        side = rng.uniform(0.18, 0.3) * min(wide, tall)
        x, y = rng.uniform(0.12 * wide, 0.88 * wide - side), rng.uniform(0.12 * tall, 0.88 * tall - side)
        mark = (*MARKS, "")[number // 3 % 3]
        made.append(
            Phantom(
                [*VIEWS][number % 3],
                mark,
                (wide, tall),
                (x, y, x + side, y + side) if mark else (0, 0, 0, 0),
                rng.randrange(2**32),
            )
        )
    return tuple(made)


def write(folder: Path, seed: int = 0) -> Path:
    """The pictures and a manifest of them in `folder`, unless they are there; returns the manifest."""
    manifest = folder / "cases.jsonl"
    if manifest.exists():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, phantom in enumerate(phantoms(seed), start=1):
        phantom.draw().save(folder / f"{number}.png")
        captions = {"en": phantom.caption(chinese=False), "zh": phantom.caption(chinese=True)}
        row = {"id": f"case-{number}", "image": f"{number}.png", "caption": captions["en"]}
        rows.append(row | {"metadata": captions | {"mark": phantom.mark or "none"}})
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return manifest


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
