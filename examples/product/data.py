"""Draw the product assistant's corpus: a spec sheet and a text of each of some invented machines.

    python -m examples.product.data FOLDER

The same seed gives the same pictures. Of the values on a sheet the text repeats the first; the second one of
the text stands on no sheet.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_FONT = Path(__file__).parents[1] / "fonts" / "NotoSansSC-subset.otf"
_KINDS = (("fan", "风扇"), ("pump", "水泵"), ("motor", "电机"))
_FIELDS = (
    ("voltage", "电压", "V", 100, 700),
    ("weight", "重量", "g", 100, 5000),
    ("power", "功率", "W", 100, 900),
    ("height", "高度", "mm", 100, 900),
    ("speed", "转速", "rpm", 1000, 5000),
)
_LIFE = ("life", "寿命", "h", 1000, 9000)
_SENTENCE = ("The {field} of the {name} is {value}.", "{name}的{field}是{value}。")
_PAPERS = (
    ("#ffffff", "#14202e", "#1d4f91"),
    ("#fdfdf4", "#101010", "#b3372f"),
    ("#eef4ff", "#0b2545", "#0b6e4f"),
)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Product:
    """`values`: (English field, Chinese field, value) of the sheet; `life` is told by the text alone."""

    id: str
    kind: tuple[str, str]
    chinese: bool
    values: tuple[tuple[str, str, str], ...]
    life: str
    colours: tuple[str, str, str]
    scale: float

    @property
    def name(self) -> str:
        return f"{self.kind[self.chinese]} {self.id}"

    def question(self, field: tuple[str, ...]) -> str:
        return (
            f"{self.name}的{field[1]}是多少？"
            if self.chinese
            else f"What is the {field[0]} of the {self.name}?"
        )

    @property
    def text(self) -> str:
        told = [(*self.values[0],), (*_LIFE[:2], self.life)]
        words = [
            _SENTENCE[self.chinese].format(field=field[self.chinese], name=self.name, value=field[2])
            for field in told
        ]
        return ("" if self.chinese else " ").join(words)

    def draw(self) -> tuple[Image.Image, dict[str, Box]]:
        """The sheet, and by its English field the box of each value, in its pixels."""
        paper, ink, accent = self.colours
        s = self.scale
        image = Image.new("RGB", (round(320 * s), round(300 * s)), paper)
        pen = ImageDraw.Draw(image)
        boxes: dict[str, Box] = {}
        title = self.name[0].upper() + self.name[1:]
        pen.text((14 * s, 26 * s), title, ink, _font(28 * s), "lm")
        y = 46.0
        pen.line((10 * s, y * s, 310 * s, y * s), accent, round(2.5 * s))
        for english, chinese, value in self.values:
            at = (306 * s, (y + 19) * s)
            label = chinese if self.chinese else english.capitalize()
            pen.text((14 * s, (y + 19) * s), label, ink, _font(24 * s), "lm")
            pen.text(at, value, ink, _font(29 * s), "rm")
            boxes[english] = pen.textbbox(at, value, _font(29 * s), "rm")
            y += 37
            pen.line((10 * s, y * s, 310 * s, y * s), accent, round(1.5 * s))
        self._draw_machine(pen, [edge * s for edge in (110, y + 14, 210, 290)])
        return image, boxes

    def _draw_machine(self, pen: ImageDraw.ImageDraw, box: list[float]) -> None:
        _, ink, accent = self.colours
        left, top, right, bottom = box
        wide, width = right - left, round(2 * self.scale)
        if self.kind[0] == "fan":
            for start in range(0, 360, 72):
                pen.pieslice(box, start, start + 34, accent)
            pen.ellipse(box, None, ink, width)
        elif self.kind[0] == "pump":
            pen.rectangle(
                (left, top + 0.4 * (bottom - top), right, top + 0.6 * (bottom - top)), accent, ink, width
            )
            pen.ellipse((left + 0.2 * wide, top, right - 0.2 * wide, bottom), accent, ink, width)
        else:
            pen.rectangle((left, top, left + 0.7 * wide, bottom), accent, ink, width)
            shaft = (left + 0.7 * wide, (top + bottom) / 2 - 5, right, (top + bottom) / 2 + 5)
            pen.rectangle(shaft, ink)


def products(seed: int = 0, count: int = 8) -> tuple[Product, ...]:
    """Every other one in Chinese."""
    rng = random.Random(seed)
    made: dict[str, Product] = {}
    while len(made) < count:
        code = "".join(rng.choices("ABCDEFGHKLMNPRSTVW", k=2)) + f"-{rng.randrange(100, 1000)}"
        fields = rng.sample(_FIELDS, rng.choice((3, 4)))
        values = tuple((en, zh, f"{rng.randrange(low, high)} {unit}") for en, zh, unit, low, high in fields)
        made[code] = Product(
            code,
            rng.choice(_KINDS),
            len(made) % 2 == 1,
            values,
            f"{rng.randrange(_LIFE[3], _LIFE[4])} {_LIFE[2]}",
            rng.choice(_PAPERS),
            rng.choice((1.0, 1.2, 1.5, 2.0)),
        )
    return tuple(made.values())


def write(folder: Path, seed: int = 0) -> Path:
    """The pictures and a manifest of them in `folder`, unless they are there; returns the manifest."""
    manifest = folder / "products.jsonl"
    if manifest.exists():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for product in products(seed):
        told = {"product_id": product.id, "language": "zh" if product.chinese else "en"}
        product.draw()[0].save(folder / f"{product.id}.png")
        caption = f"{product.name}的铭牌" if product.chinese else f"Sheet of the {product.name}"
        sheet = {"id": f"sheet-{product.id}", "image": f"{product.id}.png", "caption": caption}
        text = {"id": f"text-{product.id}", "text": product.text}
        rows += [sheet | {"metadata": told | {"form": "sheet"}}, text | {"metadata": told | {"form": "text"}}]
    manifest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return manifest


def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_FONT, round(size))


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
