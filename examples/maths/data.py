"""Draw the maths assistant's corpus: photographed problems, each with its worked solution.

    python -m examples.maths.data FOLDER

The same seed gives the same pictures. The problem stands in its picture only; `solution`, in the metadata,
has a step a line.
"""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

_FONT = Path(__file__).parents[1] / "fonts" / "NotoSansSC-subset.otf"
_SIZE = (640, 440)
_TRIPLES = ((3, 4, 5), (6, 8, 10), (5, 12, 13), (8, 15, 17), (9, 12, 15), (7, 24, 25))
_QUESTIONS = {
    "linear": ("Solve for x:", "解方程："),
    "rectangle": ("Find the area of the rectangle.", "求长方形的面积。"),
    "triangle": ("Find the longest side.", "求直角三角形的斜边。"),
}


@dataclass(frozen=True)
class Problem:
    """`numbers`: a, b, c of ax + b = c; the sides of a rectangle; the short sides of a right triangle."""

    topic: str
    numbers: tuple[int, ...]
    chinese: bool

    @property
    def id(self) -> str:
        return "-".join([self.topic, *map(str, self.numbers), "zh" if self.chinese else "en"])

    @property
    def steps(self) -> tuple[str, ...]:
        zh, (a, b, *rest) = self.chinese, self.numbers
        if self.topic == "linear":
            return linear_steps(a, b, rest[0], chinese=zh)
        if self.topic == "rectangle":
            said = "面积 = 长 × 宽" if zh else "The area of a rectangle is its length times its width."
            return (said, f"{a} × {b} = {a * b}", f"{'面积' if zh else 'The area is'} {a * b} cm²")
        square = a * a + b * b
        said = "勾股定理：c² = a² + b²" if zh else "Pythagoras: the square of the longest side is a² + b²."
        return (said, f"c² = {a}² + {b}² = {square}", f"c = √{square} = {math.isqrt(square)}")

    def draw(self) -> Image.Image:
        page = Image.new("RGB", _SIZE, "#fbf9f2")
        pen = ImageDraw.Draw(page)
        for y in range(40, _SIZE[1], 36):
            pen.line((0, y, _SIZE[0], y), "#dbe4ee", 1)
        pen.text((40, 66), _QUESTIONS[self.topic][self.chinese], "#1c1f24", _font(32), "lm")
        if self.topic == "linear":
            pen.text((320, 230), equation(*self.numbers), "#1f3f94", _font(60), "mm")
        elif self.topic == "rectangle":
            wide, tall = (max(90, 260 * side // max(self.numbers)) for side in self.numbers)
            box = (320 - wide / 2, 250 - tall / 2, 320 + wide / 2, 250 + tall / 2)
            pen.rectangle(box, "#e7eefb", "#1f3f94", 4)
            pen.text((320, box[3] + 26), f"{self.numbers[0]} cm", "#1c1f24", _font(32), "mm")
            pen.text((box[2] + 16, 250), f"{self.numbers[1]} cm", "#1c1f24", _font(32), "lm")
        else:
            corners = [
                (200.0, 370.0),
                (440.0, 370.0),
                (440.0, 370.0 - 240 * self.numbers[1] / self.numbers[0]),
            ]
            corners[2] = (440.0, max(130.0, corners[2][1]))
            pen.polygon(corners, "#fdf1e2", "#b8322a", 4)
            pen.rectangle((420, 350, 440, 370), None, "#b8322a", 3)
            pen.text((320, 398), str(self.numbers[0]), "#1c1f24", _font(32), "mm")
            pen.text((458, (370 + corners[2][1]) / 2), str(self.numbers[1]), "#1c1f24", _font(32), "lm")
        return page


def equation(a: int, b: int, c: int) -> str:
    return f"{a}x {'+' if b >= 0 else '-'} {abs(b)} = {c}"


def linear_steps(a: int, b: int, c: int, *, chinese: bool) -> tuple[str, ...]:
    """Of ax + b = c with a other than 0."""
    root = Fraction(c - b, a)
    if chinese:
        moved = f"两边同时{'加上' if b < 0 else '减去'} {abs(b)}"
        return (f"{moved}：{a}x = {c - b}", f"两边同时除以 {a}：x = {root}")
    moved = f"Add {-b} to both sides" if b < 0 else f"Subtract {b} from both sides"
    return (f"{moved}: {a}x = {c - b}", f"Divide both sides by {a}: x = {root}")


def photographed(page: Image.Image, rng: random.Random) -> Image.Image:
    """The page as from a hand-held phone: turned by up to 4 degrees, a little soft, dim and noisy."""
    turned = page.rotate(rng.uniform(-4, 4), Image.Resampling.BICUBIC, expand=True, fillcolor="#6b5a48")
    soft = turned.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    width, height = soft.size
    noise = Image.frombytes("L", soft.size, rng.randbytes(width * height)).convert("RGB")
    dim = soft.point([round(level * rng.uniform(0.86, 0.9)) for level in range(256)] * 3)
    return Image.blend(dim, noise, 0.07)


def problems(seed: int = 0, each: int = 4) -> tuple[Problem, ...]:
    """So many of each topic, every other one in Chinese."""
    rng = random.Random(seed)
    made: dict[Problem, None] = {}
    for topic in _QUESTIONS:
        count = len(made) + each
        while len(made) < count:
            made[Problem(topic, _numbers(topic, rng), len(made) % 2 == 1)] = None
    return tuple(made)


def _numbers(topic: str, rng: random.Random) -> tuple[int, ...]:
    if topic == "triangle":
        return rng.choice(_TRIPLES)[:2]
    if topic == "rectangle":
        return (rng.randrange(6, 30), rng.randrange(3, 20))
    a, root, b = rng.randrange(2, 10), rng.randrange(1, 13), rng.choice((-1, 1)) * rng.randrange(1, 30)
    return (a, b, a * root + b)


def write(folder: Path, seed: int = 0) -> Path:
    """The pictures and a manifest of them in `folder`, unless they are there; returns the manifest."""
    manifest = folder / "problems.jsonl"
    if manifest.exists():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    rows = []
    for problem in problems(seed):
        photographed(problem.draw(), rng).save(folder / f"{problem.id}.jpg", quality=85)
        metadata = {"topic": problem.topic, "solution": "\n".join(problem.steps)}
        rows.append({"id": problem.id, "image": f"{problem.id}.jpg", "metadata": metadata})
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return manifest


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FONT, size)


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
