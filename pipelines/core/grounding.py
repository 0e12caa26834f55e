"""Boxes in text, `[[x1,y1,x2,y2]]`, between the pixels of a picture and the square that a model sees.

A box is (left, top, right, bottom). People write it in pixels of the upright original; the model reads and
writes integers 0..units-1 along each side of its square, 0 one edge and units-1 the other, so that a number
means the same place at every resolution. Knows nothing of models, files or prompts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel, ConfigDict, Field

Box = tuple[float, float, float, float]
Fit = Literal["squash", "pad"]

# Nine digits hold any pixel; a bound, because a number of a million digits is no coordinate.
_NUMBER = r"\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*"
_BOX = rf"\[{','.join([_NUMBER] * 4)}\]"
_ONE = re.compile(_BOX)
_GROUP = re.compile(rf"\[\s*{_BOX}(?:\s*,\s*{_BOX})*\s*\]")

# European letters, then Chinese characters, as Linux distributions and macOS name the files; Pillow looks for
# them where the system keeps its fonts.
_FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
)
_COLOURS = ("#e6194b", "#1f78d1", "#2e9e3f", "#b8509b", "#c76a00", "#008080")


@dataclass(frozen=True, slots=True)
class Frame:
    """How an upright original of `width` x `height` pixels lies in the model's square.

    "squash" stretches it over the whole square; "pad" keeps its proportions, centred, the long side full.
    """

    width: int
    height: int
    fit: Fit
    units: int = 1000

    def to_frame(self, box: Box) -> tuple[int, int, int, int]:
        """Pixels -> integers 0..units-1. What lies outside the picture is clipped to its edge."""
        (across, left), (down, top) = self._axes()
        x1, y1, x2, y2 = self._clipped(box)
        last = self.units - 1
        return (
            round((x1 + left) / across * last),
            round((y1 + top) / down * last),
            round((x2 + left) / across * last),
            round((y2 + top) / down * last),
        )

    def to_original(self, box: Box) -> Box:
        """Frame units -> pixels, clipped to the picture (a model may point into the padding).

        The way there and back moves an edge by at most half a unit: the square's side in pixels / (units - 1)
        / 2.
        """
        (across, left), (down, top) = self._axes()
        last = self.units - 1
        x1, y1, x2, y2 = (edge / last for edge in box)
        return self._clipped((x1 * across - left, y1 * down - top, x2 * across - left, y2 * down - top))

    def _axes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """For x and y: the pixels of the original along the square's side, and those before the picture."""
        if self.fit == "squash":
            return (self.width, 0.0), (self.height, 0.0)
        side = max(self.width, self.height)
        return (side, (side - self.width) / 2), (side, (side - self.height) / 2)

    def _clipped(self, box: Box) -> Box:
        x1, y1, x2, y2 = box
        return (
            min(max(x1, 0.0), self.width),
            min(max(y1, 0.0), self.height),
            min(max(x2, 0.0), self.width),
            min(max(y2, 0.0), self.height),
        )


class FrameConfig(BaseModel):
    """How pictures lie in the model's square and boxes are counted in it, in training as in serving."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: Fit = Field("pad", description="pad: keep the proportions; squash: stretch")
    units: int = Field(1000, ge=2, le=10_000, description="steps along a side that a box can name")

    def of(self, width: int, height: int) -> Frame:
        """The frame of a picture of this size in pixels."""
        return Frame(width, height, self.fit, self.units)


@dataclass(frozen=True, slots=True)
class Found:
    """A group of boxes, `[[..],[..]]`, at text[start:end]."""

    start: int
    end: int
    boxes: tuple[Box, ...]


def parse_boxes(text: str) -> tuple[Found, ...]:
    """Every group in the text, in order. What only resembles one (three numbers, a word) is text."""
    return tuple(
        Found(
            group.start(),
            group.end(),
            tuple(_box(numbers) for numbers in _ONE.findall(group.group())),
        )
        for group in _GROUP.finditer(text)
    )


def format_boxes(boxes: Sequence[Box]) -> str:
    """`[[1,2,3,4],[5,6,7,8]]`, rounded to integers."""
    return "[" + ",".join("[" + ",".join(str(round(edge)) for edge in box) + "]" for box in boxes) + "]"


def convert_boxes(text: str, convert: Callable[[int, Box], Box]) -> str:
    """The text with every box replaced by `convert(start, box)`.

    `start` is where the box's group begins in `text`: what stands before it says which picture is meant.
    """
    pieces, done = [], 0
    for found in parse_boxes(text):
        pieces += [text[done : found.start], format_boxes([convert(found.start, box) for box in found.boxes])]
        done = found.end
    return "".join([*pieces, text[done:]])


def in_bounds(box: Box, width: int, height: int) -> bool:
    """Whether it is a box of a picture of this size. One pixel over an edge is an annotator's rounding."""
    x1, y1, x2, y2 = box
    return -1 <= x1 < x2 <= width + 1 and -1 <= y1 < y2 <= height + 1


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, wide) * max(0.0, tall)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0


def draw_boxes(image: Image.Image, boxes: Sequence[Box], labels: Sequence[str] = ()) -> Image.Image:
    """A copy of the picture with the boxes (its own pixels) outlined and labelled, readable on any ground.

    A label that no font here can draw is the box's number, from 1.
    """
    drawn = image.convert("RGB")
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(max(drawn.size) / 300))
    size = max(12, round(max(drawn.size) / 45))
    for number, box in enumerate(boxes):
        colour = _COLOURS[number % len(_COLOURS)]
        left, right = sorted((box[0], box[2]))
        top, bottom = sorted((box[1], box[3]))
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=line + 2)
        pen.rectangle((left, top, right, bottom), outline=colour, width=line)
        if number < len(labels) and labels[number]:
            font = next((font for font in _fonts() if _can_draw(font, labels[number])), None)
            label, font = (labels[number], font) if font else (str(number + 1), _fonts()[0])
            _label(pen, label, (left, top), drawn.size, colour, font.font_variant(size=size))
    return drawn


@cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    """Pillow's own, which has English letters, and those of this machine."""
    own = ImageFont.load_default(12)
    assert isinstance(own, ImageFont.FreeTypeFont), "Pillow's wheels have FreeType"
    fonts = [own]
    for name in _FONTS:
        with suppress(OSError):  # it is not installed
            fonts.append(ImageFont.truetype(name, 12))
    return tuple(fonts)


def _can_draw(font: ImageFont.FreeTypeFont, text: str) -> bool:
    """Whether the font has every character: one that it lacks is drawn as what no font has."""
    lacking = _drawn(font, "\U0010ffff")
    return all(character.isspace() or _drawn(font, character) != lacking for character in set(text))


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _label(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    size: tuple[int, int],
    colour: str,
    font: ImageFont.FreeTypeFont,
) -> None:
    """White on the box's colour, above the box where there is room, else inside it."""
    x1, y1, x2, y2 = pen.textbbox((0, 0), text, font=font)
    width, height = x2 - x1 + 6, y2 - y1 + 6
    left = max(0.0, min(corner[0], size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    pen.rectangle((left, top, left + width, top + height), fill=colour)
    pen.text((left + 3 - x1, top + 3 - y1), text, fill="white", font=font)


def _box(numbers: Sequence[str]) -> Box:
    x1, y1, x2, y2 = map(float, numbers)
    return (x1, y1, x2, y2)
