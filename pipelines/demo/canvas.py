"""Draw crisp lines and bilingual text on a picture. Knows nothing of what is drawn.

Coordinates are logical pixels; everything is drawn `SUPERSAMPLE` times larger and reduced once at
the end, so that thin lines come out smooth and the same on every machine.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

SUPERSAMPLE = 2
INK = "#14202e"
BLUE = "#1d4f91"
RED = "#b3372f"
GREY = "#6f7b88"
PAPER = "#fdfdfb"
_FONTS = files("pipelines.demo") / "fonts"


Face = Literal["print", "hand"]
_FONT_FILES: dict[Face, str] = {"print": "NotoSansSC-subset.otf", "hand": "Caveat-subset.ttf"}
_GLYPH_FILES: dict[Face, str] = {"print": "glyphs.txt", "hand": "glyphs-hand.txt"}


@cache
def font(size: int, face: Face = "print") -> ImageFont.FreeTypeFont:
    stream = io.BytesIO((_FONTS / _FONT_FILES[face]).read_bytes())
    return ImageFont.truetype(stream, size, layout_engine=ImageFont.Layout.BASIC)


@cache
def glyphs(face: Face) -> frozenset[str]:
    """Every character that a face can draw: what its font was cut down to."""
    return frozenset((_FONTS / _GLYPH_FILES[face]).read_text("utf-8"))


class Canvas:
    """A picture being drawn. `finish()` gives it at its logical size."""

    def __init__(self, width: int, height: int, paper: str | Image.Image = PAPER) -> None:
        self.width = width
        self.height = height
        size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self._image = Image.new("RGB", size, paper) if isinstance(paper, str) else paper.resize(size)
        self._draw = ImageDraw.Draw(self._image)

    def finish(self) -> Image.Image:
        return self._image.reduce(SUPERSAMPLE)

    def line(
        self, points: Sequence[Point], color: str = INK, width: float = 2, dash: Sequence[float] = ()
    ) -> None:
        """A polyline; `dash` alternates drawn and empty lengths."""
        for piece in _dashes(points, dash) if dash else [points]:
            self._draw.line([_up(p) for p in piece], fill=color, width=_px(width), joint="curve")

    def polygon(
        self, points: Sequence[Point], fill: str | None = None, color: str | None = INK, width: float = 2
    ) -> None:
        scaled = [_up(p) for p in points]
        if fill is not None:
            self._draw.polygon(scaled, fill=fill)
        if color is not None:
            self._draw.line([*scaled, scaled[0], scaled[1]], fill=color, width=_px(width), joint="curve")

    def rect(
        self,
        box: tuple[float, float, float, float],
        fill: str | None = None,
        color: str | None = INK,
        width: float = 2,
        radius: float = 0,
    ) -> None:
        x0, y0, x1, y1 = box
        corners = [_up((min(x0, x1), min(y0, y1))), _up((max(x0, x1), max(y0, y1)))]
        self._draw.rounded_rectangle(
            corners, radius * SUPERSAMPLE, fill=fill, outline=color, width=_px(width)
        )

    def circle(
        self,
        centre: Point,
        radius: float,
        fill: str | None = None,
        color: str | None = INK,
        width: float = 2,
    ) -> None:
        corners = [
            _up((centre[0] - radius, centre[1] - radius)),
            _up((centre[0] + radius, centre[1] + radius)),
        ]
        self._draw.ellipse(corners, fill=fill, outline=color, width=_px(width))

    def slice(self, centre: Point, radius: float, start: float, end: float, fill: str) -> None:
        """A piece of a pie; degrees clockwise from three o'clock."""
        corners = [
            _up((centre[0] - radius, centre[1] - radius)),
            _up((centre[0] + radius, centre[1] + radius)),
        ]
        self._draw.pieslice(corners, start, end, fill=fill, outline=PAPER, width=_px(2))

    def text(
        self,
        at: Point,
        text: str,
        size: float,
        anchor: str = "ls",
        color: str = INK,
        bold: bool = False,
        angle: float = 0,
        face: Face = "print",
    ) -> float:
        """Write `text` and return its width. `anchor` is Pillow's; `angle` turns it about `at`."""
        unknown = set(text) - glyphs(face)
        assert not unknown, f"no glyphs for {sorted(unknown)}: see fonts/README.md"
        pen_font = font(round(size * SUPERSAMPLE), face)
        stroke = size * SUPERSAMPLE * 0.022 if bold else 0
        left, top, right, bottom = pen_font.getbbox(text, anchor=anchor, stroke_width=stroke)
        x, y = _up(at)
        if angle == 0:
            self._draw.text((x, y), text, color, pen_font, anchor, stroke_width=stroke)
        else:
            reach = math.ceil(max(-left, right, -top, bottom)) + 4
            mask = Image.new("L", (2 * reach, 2 * reach), 0)
            ImageDraw.Draw(mask).text((reach, reach), text, 255, pen_font, anchor, stroke_width=stroke)
            mask = mask.rotate(angle, Image.Resampling.BICUBIC)
            self._image.paste(color, (round(x) - reach, round(y) - reach), mask)
        return (right - left) / SUPERSAMPLE


def polar(centre: Point, radius: float, angle: float) -> Point:
    """The point at `angle` radians, clockwise from three o'clock."""
    return (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))


def text_width(text: str, size: float, face: Face = "print") -> float:
    return font(round(size * SUPERSAMPLE), face).getlength(text) / SUPERSAMPLE


def wrap(text: str, size: float, width: float) -> list[str]:
    """Break at spaces, and anywhere between Chinese characters, so that no line is wider than `width`."""
    lines, line = [], ""
    for word in _words(text):
        if line and text_width(line + word.rstrip(), size) > width:
            lines.append(line.rstrip())
            line = word.lstrip()
        else:
            line += word
    return [*lines, line.rstrip()] if line.strip() else lines


def _words(text: str) -> Iterator[str]:
    word = ""
    for char in text:
        word += char
        if char == " " or ord(char) >= 0x2E80:
            yield word
            word = ""
    if word:
        yield word


def _up(point: Point) -> Point:
    return (point[0] * SUPERSAMPLE, point[1] * SUPERSAMPLE)


def _px(width: float) -> int:
    return max(1, round(width * SUPERSAMPLE))


def _dashes(points: Sequence[Point], dash: Sequence[float]) -> Iterator[list[Point]]:
    """Cut a polyline into the drawn stretches of a dash pattern that starts anew at each corner."""
    for (x0, y0), (x1, y1) in pairwise(points):
        length = math.hypot(x1 - x0, y1 - y0)
        if length == 0:
            continue
        along, turn = 0.0, 0
        while along < length:
            end = min(along + dash[turn % len(dash)], length)
            if turn % 2 == 0:
                yield [(x0 + (x1 - x0) * at / length, y0 + (y1 - y0) * at / length) for at in (along, end)]
            along, turn = end, turn + 1
