"""A tiny training file of drawn pictures: coloured shapes, named in English and Chinese."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {"red": ((220, 30, 40), "红色"), "blue": ((30, 90, 220), "蓝色"), "green": ((20, 160, 60), "绿色")}
SHAPES = {"circle": "圆形", "square": "方块", "triangle": "三角形"}
HELD_OUT = "green triangle"


def write_drawn(folder: Path) -> Path:
    """Nine pictures, one concept each; `HELD_OUT` is held out. Returns the JSONL file."""
    lines = []
    for colour, (rgb, chinese_colour) in COLOURS.items():
        for shape, chinese_shape in SHAPES.items():
            name = f"{colour} {shape}"
            draw_shape(shape, rgb).save(folder / f"{colour}-{shape}.png")
            row = {
                "image": f"{colour}-{shape}.png",
                "concept": name,
                "texts": [name, chinese_colour + chinese_shape],
                "tags": [colour, shape],
                "split": "held-out" if name == HELD_OUT else "train",
            }
            lines.append(json.dumps(row, ensure_ascii=False))
    file = folder / "drawn.jsonl"
    file.write_text("\n".join(lines) + "\n", "utf-8")
    return file


def draw_shape(shape: str, rgb: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((8, 8, 56, 56), fill=rgb)
    elif shape == "square":
        draw.rectangle((10, 10, 54, 54), fill=rgb)
    else:
        draw.polygon(((32, 8), (8, 56), (56, 56)), fill=rgb)
    return image
