"""Drawn scenes of one to three coloured shapes with their boxes, and questions about them.

Colours and shapes are easy-VQA's. A scene, as the list of its coloured shapes, is trained on or tested, never
both. Knows nothing of files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from benchmarks.tiny_llava.sheet_talk import WHERE
from benchmarks.tiny_llava.sheets import Box
from benchmarks.tiny_llava.split import Asked, Language, Part, Phrases, part_of
from pipelines.core.grounding import format_boxes

SHAPES = (("circle", "圆形"), ("rectangle", "矩形"), ("triangle", "三角形"))
COLOURS = (
    ("red", "红色", (255, 0, 0)),
    ("green", "绿色", (0, 160, 0)),
    ("blue", "蓝色", (0, 0, 255)),
    ("black", "黑色", (0, 0, 0)),
    ("gray", "灰色", (128, 128, 128)),
    ("teal", "青色", (0, 128, 128)),
    ("brown", "棕色", (139, 69, 19)),
    ("yellow", "黄色", (235, 215, 0)),
)
_COUNT = {"en": ("one", "two", "three"), "zh": ("一", "二", "三")}

HOW_MANY = {
    "en": Phrases(
        ("How many shapes are there?", "Tell me how many shapes it has."), ("How many shapes does it have?",)
    ),
    "zh": Phrases(("有几个图形？", "请问图上有几个图形？"), ("图上有几个图形？",)),
}
COLOUR_OF = {
    "en": Phrases(
        ("What color is the {shape}?", "Tell me the color of the {shape}."),
        ("What is the color of the {shape}?",),
    ),
    "zh": Phrases(("{shape}是什么颜色？", "请问{shape}的颜色？"), ("请问{shape}是什么颜色？",)),
}
IS_THERE = {
    "en": Phrases(("Is there a {thing}?", "Does it show a {thing}?"), ("Does the picture show a {thing}?",)),
    "zh": Phrases(("有{thing}吗？", "图上有没有{thing}？"), ("图上有{thing}吗？",)),
}
DESCRIBE = {
    "en": Phrases(
        ("Describe the picture.", "What does the picture show?"), ("Please describe the picture.",)
    ),
    "zh": Phrases(("描述这张图。", "图上有什么？"), ("请描述这张图。",)),
}
_YES = {"en": ("no", "yes"), "zh": ("没有", "有")}


@dataclass(frozen=True, slots=True)
class Placed:
    """`shape` and `colour` are places in SHAPES and COLOURS; the box is in pixels of the picture."""

    shape: int
    colour: int
    box: Box

    def name(self, language: Language) -> str:
        at = language == "zh"
        between = " " if language == "en" else ""
        return f"{COLOURS[self.colour][at]}{between}{SHAPES[self.shape][at]}"


def scene(rng: random.Random, part: Part) -> tuple[Image.Image, tuple[Placed, ...]]:
    """A picture, and its shapes from left to right. No two are of the same shape and colour."""
    side = rng.choice((64, 96, 128, 160, 200))
    wide = round(side * rng.uniform(0.8, 1.25))
    while True:
        placed = _placed(rng, wide, side)
        names = " ".join(sorted(one.name("en") for one in placed))
        if part_of("scene", names) == part:
            break
    image = Image.new("RGB", (wide, side), tuple(rng.randrange(200, 256) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for one in placed:
        colour = tuple(min(255, max(0, level + rng.randrange(-15, 16))) for level in COLOURS[one.colour][2])
        _draw(pen, one, colour)
    return image, tuple(sorted(placed, key=lambda one: one.box[0]))


def boxes(placed: tuple[Placed, ...], rng: random.Random, part: Part, language: Language) -> list[Asked]:
    asked = [
        Asked(
            rng.choice(WHERE[language].of(part)).format(thing=one.name(language)),
            format_boxes([one.box]),
            "box",
        )
        for one in placed
    ]
    rng.shuffle(asked)
    return asked


def others(placed: tuple[Placed, ...], rng: random.Random, part: Part, language: Language) -> list[Asked]:
    """Count, colour of a shape that is there once, whether something is there, all of it."""
    at = language == "zh"
    asked = [Asked(rng.choice(HOW_MANY[language].of(part)), _COUNT[language][len(placed) - 1], "count")]
    single = [one for one in placed if sum(one.shape == other.shape for other in placed) == 1]
    if single:
        one = rng.choice(single)
        question = rng.choice(COLOUR_OF[language].of(part)).format(shape=SHAPES[one.shape][at])
        asked.append(Asked(question, COLOURS[one.colour][at], "colour"))
    there = rng.random() < 0.5
    thing = rng.choice(placed) if there else Placed(rng.randrange(3), rng.randrange(8), (0, 0, 0, 0))
    answer = _YES[language][any((thing.shape, thing.colour) == (one.shape, one.colour) for one in placed)]
    asked.append(
        Asked(rng.choice(IS_THERE[language].of(part)).format(thing=thing.name(language)), answer, "is")
    )
    names = [one.name(language) for one in placed]
    text = f"A {' and a '.join(names)}." if language == "en" else f"{'和'.join(names)}。"
    asked.append(Asked(rng.choice(DESCRIBE[language].of(part)), text, "describe"))
    rng.shuffle(asked)
    return asked


def _placed(rng: random.Random, wide: int, side: int) -> list[Placed]:
    many = rng.choice((1, 1, 2, 2, 3))
    placed: list[Placed] = []
    tries = 0
    while len(placed) < many and tries < 50:
        tries += 1
        largest = 0.75 if many == 1 else 0.5
        across, down = (round(side * rng.uniform(0.25, largest)) for _ in range(2))
        shape, colour = rng.randrange(3), rng.randrange(8)
        if shape == 0:
            down = across
        if across >= wide - 4 or down >= side - 4:
            continue
        x, y = rng.randrange(2, wide - across - 1), rng.randrange(2, side - down - 1)
        box = (x, y, x + across, y + down)
        same = any((one.shape, one.colour) == (shape, colour) for one in placed)
        if not same and not any(overlap(box, one.box) for one in placed):
            placed.append(Placed(shape, colour, box))
    return placed


def overlap(one: Box, other: Box) -> bool:
    """Whether they come nearer than two pixels."""
    return one[0] < other[2] + 2 and other[0] < one[2] + 2 and one[1] < other[3] + 2 and other[1] < one[3] + 2


def _draw(pen: ImageDraw.ImageDraw, one: Placed, colour: tuple[int, ...]) -> None:
    x0, y0, x1, y1 = one.box
    if one.shape == 0:
        pen.ellipse(one.box, colour)
    elif one.shape == 1:
        pen.rectangle(one.box, colour)
    else:
        pen.polygon([(x0, y1), (x1, y1), ((x0 + x1) / 2, y0)], colour)
