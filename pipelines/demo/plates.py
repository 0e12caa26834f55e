"""Nameplates and small spec sheets: a title, rows of labels and values, a drawing, and where each stands.

A plate is legible in a square of 160 pixels: a page is 320 pixels wide (times its scale), its letters are 24
to 28 high. Knows nothing of what plates say.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipelines.demo.canvas import font

Box = tuple[float, float, float, float]

_WIDTH = 320
PALETTES = (
    ("#ffffff", "#14202e", "#1d4f91"),
    ("#fdfdf4", "#101010", "#b3372f"),
    ("#eef4ff", "#0b2545", "#0b6e4f"),
    ("#fff7e8", "#2b1d0e", "#8a4b08"),
    ("#f2f2f2", "#000000", "#5b2a86"),
)
DARK = (
    ("#14202e", "#f4f6f8", "#7fb2ff"),
    ("#222222", "#ffffff", "#ffb454"),
    ("#0b3d2e", "#f0fff4", "#9ae6b4"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """`key` names the row's box."""

    key: str
    label: str
    value: str


@dataclass(frozen=True, slots=True)
class Plate:
    """`form` is a key of DRAWINGS: what the thing looks like. `chinese` chooses the colon and its room."""

    title: str
    form: str
    rows: tuple[Row, ...]
    chinese: bool = False


def draw(plate: Plate, layout: str, rng: random.Random) -> tuple[Image.Image, dict[str, Box]]:
    """The picture, and in its pixels the boxes of `drawing`, `title` and each value, by its row's key.

    Raises KeyError for a layout or form that there is not.
    """
    height = rng.randrange(270, 321)
    palettes = DARK if layout in ("dark", "middle") and rng.random() < 0.7 else PALETTES
    page = _Page(height, rng.choice(palettes), rng)
    LAYOUTS[layout](page, plate)
    return page.image, page.boxes


class _Page:
    """A page being drawn, in units of 1/320 of its width."""

    def __init__(self, height: int, palette: tuple[str, str, str], rng: random.Random) -> None:
        self.scale = rng.choice((1.0, 1.0, 1.2, 1.5))
        self.height = height
        self.rng = rng
        self.paper, self.ink, self.accent = palette
        size = (round(_WIDTH * self.scale), round(height * self.scale))
        self.image = Image.new("RGB", size, self.paper)
        self.pen = ImageDraw.Draw(self.image)
        self.boxes: dict[str, Box] = {}

    def text(self, at: tuple[float, float], text: str, size: float, anchor: str, **style: str) -> Box:
        """Returns the box of the ink, in the picture's pixels."""
        face = font(round(size * self.scale))
        place = (at[0] * self.scale, at[1] * self.scale)
        self.pen.text(place, text, style.get("fill", self.ink), face, anchor)
        return self.pen.textbbox(place, text, face, anchor)

    def line(self, points: list[tuple[float, float]], width: float = 1.5, fill: str = "") -> None:
        scaled = [(x * self.scale, y * self.scale) for x, y in points]
        self.pen.line(scaled, fill or self.accent, max(1, round(width * self.scale)))

    def rect(self, box: Box, fill: str | None = None, width: float = 1.5) -> None:
        corners = [edge * self.scale for edge in box]
        self.pen.rectangle(corners, fill, self.accent, max(1, round(width * self.scale)))

    def title(self, plate: Plate, at: tuple[float, float], anchor: str, **style: str) -> None:
        self.boxes["title"] = self.text(at, plate.title, 28, anchor, **style)

    def label(self, row: Row, at: tuple[float, float], anchor: str, end: str = "") -> None:
        self.text(at, row.label + end, 24, anchor)

    def value(self, row: Row, at: tuple[float, float], anchor: str) -> None:
        self.boxes[row.key] = self.text(at, row.value, 29, anchor)

    def drawing(self, plate: Plate, free: Box) -> None:
        """Somewhere in the free room, of a size that leaves it about filled or half filled."""
        left, top, right, bottom = free
        side = min(right - left, bottom - top, 130)
        tall = side * self.rng.uniform(0.65, 1.0)
        wide = min(right - left, tall * self.rng.uniform(0.9, 1.3))
        x = self.rng.uniform(left, right - wide)
        y = self.rng.uniform(top, bottom - tall)
        s = self.scale
        box = (x * s, y * s, (x + wide) * s, (y + tall) * s)
        DRAWINGS[plate.form](self.pen, box, self.ink, self.accent, max(1, round(2 * s)))
        self.boxes["drawing"] = box


def _table(page: _Page, plate: Plate) -> None:
    page.title(plate, (14, 26), "lm")
    y = 46.0
    page.line([(10, y), (310, y)], 2.5)
    for row in plate.rows:
        page.label(row, (14, y + 19), "lm")
        page.value(row, (306, y + 19), "rm")
        y += 37
        page.line([(10, y), (310, y)])
    page.drawing(plate, (20, y + 8, 300, page.height - 8))


def _list(page: _Page, plate: Plate) -> None:
    page.title(plate, (16, 28), "lm", fill=page.accent)
    y = 68.0
    for row in plate.rows:
        end = "：" if plate.chinese else ":"
        page.label(row, (16, y), "lm", end)
        page.value(row, (110 if plate.chinese else 170, y), "lm")
        y += 34
    page.drawing(plate, (16, y - 8, 304, page.height - 8))


def _top(page: _Page, plate: Plate) -> None:
    rows = 32 * len(plate.rows)
    y = page.height - rows - 44.0
    page.drawing(plate, (40, 8, 280, y - 4))
    page.title(plate, (160, y + 16), "mm")
    y += 50
    for row in plate.rows:
        page.label(row, (152, y), "rm")
        page.value(row, (168, y), "lm")
        y += 32


def _cells(page: _Page, plate: Plate) -> None:
    page.rect((4, 4, 316, 42), page.accent)
    page.title(plate, (12, 23), "lm", fill=page.paper)
    for number, row in enumerate(plate.rows):
        x, y = 6 + 156 * (number % 2), 48 + 70 * (number // 2)
        page.rect((x, y, x + 152, y + 66))
        page.label(row, (x + 8, y + 18), "lm")
        page.value(row, (x + 8, y + 47), "lm")
    page.drawing(plate, (20, 194, 300, page.height - 8))


def _dark(page: _Page, plate: Plate) -> None:
    y = 22.0
    for row in plate.rows:
        page.label(row, (12, y), "lm")
        page.value(row, (180, y), "lm")
        y += 33
    page.drawing(plate, (20, y - 8, 300, page.height - 52))
    page.rect((0, page.height - 44, 320, page.height), page.accent)
    page.title(plate, (308, page.height - 22), "rm", fill=page.paper)


def _centred(page: _Page, plate: Plate) -> None:
    page.title(plate, (160, 24), "mm")
    page.rect((8, 44, 312, 52 + 35 * len(plate.rows)))
    y = 66.0
    for row in plate.rows:
        page.label(row, (20, y), "lm")
        page.value(row, (298, y), "rm")
        y += 35
    page.drawing(plate, (90, y - 6, 306, page.height - 6))


def _flipped(page: _Page, plate: Plate) -> None:
    """Values to the left of their labels."""
    page.title(plate, (306, 26), "rm", fill=page.accent)
    y = 66.0
    for row in plate.rows:
        page.value(row, (14, y), "lm")
        page.label(row, (306, y), "rm")
        y += 36
    page.drawing(plate, (20, y - 8, 300, page.height - 8))


def _under(page: _Page, plate: Plate) -> None:
    """Cells beneath the drawing, labels beneath the values."""
    top = page.height - 144
    page.title(plate, (160, 22), "mm")
    page.drawing(plate, (20, 42, 300, top - 6))
    for number, row in enumerate(plate.rows):
        x, y = 6 + 156 * (number % 2), top + 70 * (number // 2)
        page.rect((x, y, x + 152, y + 66))
        page.value(row, (x + 144, y + 18), "rm")
        page.label(row, (x + 144, y + 47), "rm")


def _middle(page: _Page, plate: Plate) -> None:
    """The drawing between the rows, the title last."""
    y = 20.0
    gap = page.height - 44 - 34 * len(plate.rows)
    for number, row in enumerate(plate.rows):
        page.label(row, (24, y), "lm")
        page.value(row, (184, y), "lm")
        y += 34
        if number == 1:
            page.drawing(plate, (20, y - 12, 300, y + gap - 20))
            y += gap
    page.title(plate, (160, page.height - 24), "mm")


LAYOUTS: Mapping[str, Callable[[_Page, Plate], None]] = {
    "table": _table,
    "list": _list,
    "top": _top,
    "cells": _cells,
    "dark": _dark,
    "centred": _centred,
    "flipped": _flipped,
    "under": _under,
    "middle": _middle,
}

_Draw = ImageDraw.ImageDraw


def _fan(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    x0, y0, x1, y1 = box
    pen.ellipse(box, None, ink, width)
    for start in range(0, 360, 72):
        pen.pieslice((x0 + 3, y0 + 3, x1 - 3, y1 - 3), start, start + 34, accent)
    pen.ellipse(_part(box, 0.38, 0.38, 0.62, 0.62), ink)


def _pump(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    pen.rectangle(_part(box, 0, 0.4, 1, 0.6), accent, ink, width)
    pen.rectangle(_part(box, 0, 0.25, 0.08, 0.75), ink)
    pen.rectangle(_part(box, 0.92, 0.25, 1, 0.75), ink)
    pen.ellipse(_part(box, 0.2, 0, 0.8, 1), accent, ink, width)


def _motor(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    pen.rectangle(_part(box, 0, 0, 0.7, 1), accent, ink, width)
    for row in (0.2, 0.4, 0.6, 0.8):
        x0, y, x1, _ = _part(box, 0.05, row, 0.65, 1)
        pen.line((x0, y, x1, y), ink, width)
    pen.rectangle(_part(box, 0.7, 0.42, 1, 0.58), ink)


def _radiator(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    pen.rectangle(box, None, ink, width)
    for column in range(1, 10):
        x, y0, _, y1 = _part(box, column / 10, 0, 1, 1)
        pen.line((x, y0, x, y1), accent, width)


def _bracket(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    x0, y0, x1, y1 = box
    x, y = x0 + 0.35 * (x1 - x0), y0 + 0.65 * (y1 - y0)
    pen.polygon([(x0, y0), (x, y0), (x, y), (x1, y), (x1, y1), (x0, y1)], accent, ink)
    pen.ellipse(_part(box, 0.1, 0.12, 0.25, 0.27), ink)
    pen.ellipse(_part(box, 0.75, 0.75, 0.9, 0.9), ink)


def _bearing(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    pen.ellipse(box, None, ink, width)
    pen.ellipse(_part(box, 0.3, 0.3, 0.7, 0.7), None, ink, width)
    for number in range(8):
        x, y = 0.5 + 0.4 * math.cos(number * math.pi / 4), 0.5 + 0.4 * math.sin(number * math.pi / 4)
        pen.ellipse(_part(box, x - 0.07, y - 0.07, x + 0.07, y + 0.07), accent)


def _magnet(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    pen.rectangle(_part(box, 0, 0, 1, 0.35), "#c62828", ink, width)
    pen.rectangle(_part(box, 0, 0.35, 0.3, 1), "#c62828", ink, width)
    pen.rectangle(_part(box, 0.7, 0.35, 1, 1), "#1565c0", ink, width)


def _screw(pen: _Draw, box: Box, ink: str, accent: str, width: int) -> None:
    pen.rectangle(_part(box, 0, 0, 0.22, 1), accent, ink, width)
    pen.rectangle(_part(box, 0.22, 0.3, 1, 0.7), None, ink, width)
    for number in range(7):
        x0, y0, x1, y1 = _part(box, 0.25 + number * 0.1, 0.3, 0.33 + number * 0.1, 0.7)
        pen.line((x0, y0, x1, y1), ink, width)


DRAWINGS: Mapping[str, Callable[[_Draw, Box, str, str, int], None]] = {
    "fan": _fan,
    "pump": _pump,
    "motor": _motor,
    "radiator": _radiator,
    "bracket": _bracket,
    "bearing": _bearing,
    "magnet": _magnet,
    "screw": _screw,
}


def _part(box: Box, left: float, top: float, right: float, bottom: float) -> Box:
    """A part of the box, its edges as fractions of it."""
    x0, y0, x1, y1 = box
    wide, tall = x1 - x0, y1 - y0
    return (x0 + left * wide, y0 + top * tall, x0 + right * wide, y0 + bottom * tall)
