"""Pages for the tower to read: random words, drawings and shapes at random places, and what is in each patch.

No layout of `sheets.py` is among them, and no number or scene that is held out. Knows nothing of models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.tiny_llava.fields import FIELDS, KINDS, code
from benchmarks.tiny_llava.model import FRAME, PATCH, SIDE
from benchmarks.tiny_llava.shapes import COLOURS, SHAPES, overlap, scene
from benchmarks.tiny_llava.sheets import Box
from pipelines.core.images import Picture, fit_square
from pipelines.demo.canvas import font
from pipelines.demo.plates import DARK, DRAWINGS, PALETTES

ACROSS = SIDE // PATCH
SLOTS = 3  # characters of a patch
NOTHING = -100
"""The box of a patch with nothing in it: what torch's losses leave out."""

_TWICE = 2  # drawn larger and reduced, as sheets are
_SCENES = 0.2  # of the pages
_WORDS = [word for field in FIELDS for word in (field.en.capitalize(), field.zh)]
_WORDS += [word for english, chinese in KINDS for word in (english.capitalize(), chinese)]
_DIGITS, _CAPITALS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CHARACTERS = sorted({*"".join(_WORDS), *"".join(field.unit for field in FIELDS), *_DIGITS, *_CAPITALS, "-"})
# A shape is told as if its form and its colour were written all over it.
FORMS = [f" {english}" for english, _ in SHAPES]
HUES = [f" {english}" for english, *_ in COLOURS]
SIGNS = (*CHARACTERS, *FORMS, *HUES)
_CLASS = {sign: number for number, sign in enumerate(SIGNS, start=1)}

Labels = tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]
"""A picture (SIDE, SIDE, 3). Of each patch its signs' places in SIGNS from 1, characters from left to right,
0 where there are no more, (patches, SLOTS). The box of the word or thing in it in units of FRAME, or
NOTHING, (patches, 4)."""


def page(rng: random.Random) -> Labels:
    return _scene(rng) if rng.random() < _SCENES else _words(rng)


@dataclass(slots=True)
class _Told:
    """What the patches of a picture hold, as it is drawn."""

    characters: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    boxes: NDArray[np.int64] = field(default_factory=lambda: np.full((ACROSS, ACROSS, 4), NOTHING))

    def word(self, word: str, x: float, y: float, size: int, box: Box) -> None:
        """Each character belongs to the patch that its middle lies in."""
        face = font(size)
        row = min(ACROSS - 1, int((y + 0.72 * size) / (PATCH * _TWICE)))  # the middle of a capital
        for number, character in enumerate(word):
            middle = x + (face.getlength(word[:number]) + face.getlength(word[: number + 1])) / 2
            column = int(middle / (PATCH * _TWICE))
            if character in _CLASS:
                patch = row * ACROSS + column
                self.characters.setdefault(patch, []).append((middle, _CLASS[character]))
            self.boxes[row, column] = _units(box, SIDE * _TWICE, SIDE * _TWICE)

    def thing(self, box: Box, width: int, height: int, *signs: str) -> None:
        """All patches whose middle it holds, but words'."""
        edges = _units(box, width, height)
        x0, y0, x1, y1 = (edge * ACROSS / (FRAME.units - 1) for edge in edges)
        middles = np.arange(ACROSS) + 0.5
        inside = ((middles > y0) & (middles < y1))[:, None] & ((middles > x0) & (middles < x1))
        free = inside & (self.boxes[..., 0] == NOTHING)
        self.boxes[free] = edges
        for patch in np.flatnonzero(free):
            self.characters[int(patch)] = [(at, _CLASS[sign]) for at, sign in enumerate(signs)]

    def labels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        classes = np.zeros((ACROSS**2, SLOTS), np.int64)
        for patch, found in self.characters.items():
            for slot, (_, number) in enumerate(sorted(found)[:SLOTS]):
                classes[patch, slot] = number
        return classes, self.boxes.reshape(ACROSS**2, 4)


def _units(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    return FRAME.of(width, height).to_frame(box)


def _scene(rng: random.Random) -> Labels:
    image, placed = scene(rng, "train")
    told = _Told()
    for one in placed:
        told.thing(one.box, image.width, image.height, FORMS[one.shape], HUES[one.colour])
    return fit_square(Picture(image, image.width, image.height), SIDE, FRAME.fit), *told.labels()


def _words(rng: random.Random) -> Labels:
    paper, ink, accent = rng.choice(PALETTES + DARK)
    wide = SIDE * _TWICE
    image = Image.new("RGB", (wide, wide), paper)
    pen = ImageDraw.Draw(image)
    told = _Told()
    drawing = _drawing(pen, rng, ink, accent) if rng.random() < 0.7 else None
    y = rng.uniform(0, 34)
    while y < wide - 34:
        size = rng.choice((24, 24, 27, 29, 29, 32))
        x = rng.uniform(2, 90)
        while (end := x + font(size).getlength(word := _word(rng))) < wide - 2:
            if drawing and overlap((x, y, end, y + size + 4), drawing):
                x = drawing[2] + rng.uniform(4, 40)
                continue
            if rng.random() < 0.1:
                pen.rectangle((x - 4, y - 1, end + 4, y + size + 5), paper)
            pen.text((x, y), word, rng.choice((ink, ink, ink, accent)), font(size), "la")
            told.word(word, x, y, size, pen.textbbox((x, y), word, font(size), "la"))
            x = end + rng.choice((12, 20, 40, 90))
        y += size + rng.choice((4, 6, 8, 12, 50))
        if rng.random() < 0.15 and not drawing:
            pen.line((rng.uniform(0, 100), y - 2, rng.uniform(200, 320), y - 2), accent, 3)
    if drawing:
        told.thing(drawing, wide, wide)
    return np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)), *told.labels()


def _word(rng: random.Random) -> str:
    what = rng.random()
    if what < 0.25:
        return rng.choice(_WORDS)
    if what < 0.4:
        return code(rng, "train")
    return rng.choice(FIELDS).value(rng, "train")


def _drawing(pen: ImageDraw.ImageDraw, rng: random.Random, ink: str, accent: str) -> Box:
    tall = rng.uniform(40, 130)
    wide = min(280.0, tall * rng.uniform(0.9, 1.3))
    x, y = rng.uniform(2, 318 - wide), rng.uniform(2, 318 - tall)
    box = (x, y, x + wide, y + tall)
    DRAWINGS[rng.choice(sorted(DRAWINGS))](pen, box, ink, accent, _TWICE)
    return box
