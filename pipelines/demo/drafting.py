"""The conventions of a technical drawing: frame, title block, dimensions, centre lines, tables.

Knows nothing of products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.demo.canvas import BLUE, GREY, PAPER, RED, Canvas, Point, wrap

WIDTH, HEIGHT = 1400, 990
CHAIN = (14, 4, 3, 4)
HIDDEN = (7, 4)
_MARGIN = 26
_ARROW = 11


@dataclass(frozen=True, slots=True)
class TitleBlock:
    company: str
    title: str
    number: str
    labels: tuple[str, str, str, str, str]
    values: tuple[str, str, str, str, str]


def frame(canvas: Canvas, title: TitleBlock) -> None:
    """The border with its zone marks, and the title block in the lower right corner."""
    canvas.rect((8, 8, WIDTH - 8, HEIGHT - 8), color=GREY, width=1)
    canvas.rect((_MARGIN, _MARGIN, WIDTH - _MARGIN, HEIGHT - _MARGIN), width=2.5)
    for n in range(8):
        across = _MARGIN + (n + 0.5) * (WIDTH - 2 * _MARGIN) / 8
        for y in (17, HEIGHT - 17):
            canvas.text((across, y), str(n + 1), 11, "mm", GREY)
    for n in range(6):
        down = _MARGIN + (n + 0.5) * (HEIGHT - 2 * _MARGIN) / 6
        for x in (17, WIDTH - 17):
            canvas.text((x, down), "ABCDEF"[n], 11, "mm", GREY)

    left, top, right, bottom = 950, 806, WIDTH - _MARGIN, HEIGHT - _MARGIN
    canvas.rect((left, top, right, bottom), width=2.5)
    canvas.line([(left, top + 52), (right - 150, top + 52)], width=1.2)
    canvas.line([(left, top + 104), (right, top + 104)], width=1.2)
    canvas.line([(right - 150, top), (right - 150, top + 104)], width=1.2)
    canvas.text((left + 14, top + 35), title.company, 22, bold=True)
    canvas.text((left + 14, top + 87), title.title, 20)
    canvas.text((right - 75, top + 52), title.number, 28, "mm", bold=True)
    step = (right - left) / 5
    for n, (label, value) in enumerate(zip(title.labels, title.values, strict=True)):
        edge = left + n * step
        if n:
            canvas.line([(edge, top + 104), (edge, bottom)], width=1.2)
        canvas.text((edge + 7, top + 122), label, 11, color=GREY)
        canvas.text((edge + 7, top + 146), value, 15)


def heading(canvas: Canvas, at: Point, text: str) -> None:
    width = canvas.text(at, text, 16, bold=True)
    canvas.line([(at[0], at[1] + 7), (at[0] + width, at[1] + 7)], width=1)


def horizontal(canvas: Canvas, x0: float, x1: float, y_from: float, y: float, label: str) -> None:
    """A dimension from x0 to x1, drawn at height `y`; extension lines start at `y_from`."""
    gap, over = (4, 7) if y > y_from else (-4, -7)
    for x in (x0, x1):
        canvas.line([(x, y_from + gap), (x, y + over)], BLUE, 1)
    if x1 - x0 < 4 * _ARROW:
        canvas.line([(x0 - 2 * _ARROW, y), (x1 + 48, y)], BLUE, 1.2)
        _arrow(canvas, (x0, y), 0)
        _arrow(canvas, (x1, y), math.pi)
        canvas.text((x1 + 20, y - 4), label, 16, "ls", BLUE)
        return
    canvas.line([(x0, y), (x1, y)], BLUE, 1.2)
    _arrow(canvas, (x0, y), math.pi)
    _arrow(canvas, (x1, y), 0)
    canvas.text(((x0 + x1) / 2, y - 4), label, 16, "ms", BLUE)


def vertical(canvas: Canvas, y0: float, y1: float, x_from: float, x: float, label: str) -> None:
    """A dimension from y0 to y1, drawn at `x`; its figure reads from the right, as on paper."""
    gap, over = (4, 7) if x > x_from else (-4, -7)
    for y in (y0, y1):
        canvas.line([(x_from + gap, y), (x + over, y)], BLUE, 1)
    canvas.line([(x, y0), (x, y1)], BLUE, 1.2)
    _arrow(canvas, (x, y0), -math.pi / 2)
    _arrow(canvas, (x, y1), math.pi / 2)
    canvas.text((x - 4, (y0 + y1) / 2), label, 16, "ms", BLUE, angle=90)


def leader(canvas: Canvas, tip: Point, elbow: Point, label: str) -> None:
    """An arrow to `tip`, and its label on a short shelf at `elbow`."""
    side = 1 if elbow[0] >= tip[0] else -1
    canvas.line([tip, elbow, (elbow[0] + 12 * side, elbow[1])], BLUE, 1.2)
    _arrow(canvas, tip, math.atan2(tip[1] - elbow[1], tip[0] - elbow[0]))
    canvas.text((elbow[0] + 16 * side, elbow[1]), label, 15, "lm" if side > 0 else "rm", BLUE)


def cross(canvas: Canvas, centre: Point, reach: float) -> None:
    """The centre lines of a hole or a round part."""
    x, y = centre
    dash = CHAIN if reach > 20 else ()
    canvas.line([(x - reach, y), (x + reach, y)], RED, 1, dash)
    canvas.line([(x, y - reach), (x, y + reach)], RED, 1, dash)


def hole(canvas: Canvas, centre: Point, radius: float) -> None:
    canvas.circle(centre, radius, fill=PAPER, width=1.8)
    cross(canvas, centre, radius + 6)


def hatch(canvas: Canvas, box: tuple[float, float, float, float], pitch: float = 8) -> None:
    """Fill a rectangle with lines at 45 degrees: cut material."""
    x0, y0, x1, y1 = box
    start = x0 - (y1 - y0)
    for n in range(int((x1 - start) / pitch) + 1):
        x = start + n * pitch
        low, high = max(x, x0), min(x + (y1 - y0), x1)
        if low < high:
            canvas.line([(low, y1 - (low - x)), (high, y1 - (high - x))], GREY, 0.8)
    canvas.rect(box, width=2)


def table(
    canvas: Canvas, at: Point, widths: Sequence[float], rows: Sequence[Sequence[str]], size: float = 15
) -> float:
    """A boxed table whose first row is its head; returns the height."""
    x0, y0 = at
    total, high = sum(widths), size * 1.85
    canvas.rect((x0, y0, x0 + total, y0 + high), fill="#e6ecf3", color=None)
    for n, row in enumerate(rows):
        y, x = y0 + n * high, x0
        for cell, width in zip(row, widths, strict=True):
            canvas.text((x + 9, y + high / 2), cell, size, "lm", bold=n == 0)
            x += width
        canvas.line([(x0, y), (x0 + total, y)], width=1)
    bottom = y0 + len(rows) * high
    x = x0
    for width in widths[:-1]:
        x += width
        canvas.line([(x, y0), (x, bottom)], width=1)
    canvas.rect((x0, y0, x0 + total, bottom), width=2)
    return bottom - y0


def notes(canvas: Canvas, at: Point, width: float, items: Sequence[str]) -> None:
    x, y = at
    for n, item in enumerate(items, 1):
        canvas.text((x, y), f"{n}.", 13, color=GREY)
        for line in wrap(item, 13, width - 22):
            canvas.text((x + 22, y), line, 13, color=GREY)
            y += 19


def _arrow(canvas: Canvas, tip: Point, towards: float) -> None:
    back = [
        (tip[0] - _ARROW * math.cos(towards + turn), tip[1] - _ARROW * math.sin(towards + turn))
        for turn in (-0.26, 0.26)
    ]
    canvas.polygon([tip, *back], fill=BLUE, color=None)
