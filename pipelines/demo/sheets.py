"""Draw a product's spec sheet: two views, the mounting holes, what it fits. Knows nothing of its prose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from pipelines.demo.canvas import GREY, PAPER, RED, Canvas, Point, polar
from pipelines.demo.drafting import (
    CHAIN,
    HEIGHT,
    HIDDEN,
    WIDTH,
    TitleBlock,
    cross,
    frame,
    hatch,
    heading,
    hole,
    horizontal,
    leader,
    notes,
    table,
    vertical,
)
from pipelines.demo.products import Pattern, Product

Box = tuple[float, float, float, float]
_METAL = "#eef1f5"
_DARK = "#c9d2dc"
_HOLE_MM = {"fan": 4.3, "bracket": 4.5}


@dataclass(frozen=True, slots=True)
class _Words:
    company: str
    labels: tuple[str, str, str, str, str]
    front: str
    side: str
    above: str
    holes: str
    head: tuple[str, str]
    fits: str
    notes: tuple[str, ...]


_EN = _Words(
    "Windrose Thermal",
    ("Format", "Unit", "Date", "Rev.", "Sheet"),
    "Front view",
    "Side view",
    "View from above",
    "Mounting holes",
    ("Fits", "Hole spacing"),
    "Compatibility",
    (
        "Tolerances ± 0.2 mm unless stated.",
        "Edges broken, holes deburred.",
        "Do not scale from the drawing.",
    ),
)
_ZH = _Words(
    "风玫瑰散热",
    ("图幅", "单位", "日期", "版本", "页"),
    "主视图",
    "侧视图",
    "俯视图",
    "安装孔",
    ("适用", "孔距"),
    "兼容性",
    ("未注公差 ± 0.2 mm。", "锐边倒钝，孔口去毛刺。", "不得从图上量取尺寸。"),
)


def draw(product: Product) -> Image.Image:
    words = _ZH if product.drawn_in_chinese else _EN
    canvas = Canvas(WIDTH, HEIGHT)
    values = ("A4", "mm", f"{product.year}-03", "B", "1 / 1")
    frame(canvas, TitleBlock(words.company, product.title, product.id, words.labels, values))

    width, height, depth = product.size_mm
    scale = min(420 / width, 500 / height, 250 / depth, 4.2)
    half, tall, deep = width * scale / 2, height * scale, depth * scale
    front = (310 - half, 420 - tall / 2, 310 + half, 420 + tall / 2)
    side = (750 - deep / 2, 420 - tall / 2, 750 + deep / 2, 420 + tall / 2)
    heading(canvas, (60, 78), words.front)
    heading(canvas, (620, 78), words.above if product.form == "low" else words.side)
    _FRONT[product.form](canvas, front, product, scale)
    _SIDE[product.form](canvas, side, product, scale)
    horizontal(canvas, front[0], front[2], front[3], front[3] + 62, f"{width:g}")
    vertical(canvas, front[1], front[3], front[0], front[0] - 46, f"{height:g}")
    horizontal(canvas, side[0], side[2], side[3], side[3] + 62, f"{depth:g}")

    heading(canvas, (960, 78), words.holes)
    _mounting(canvas, (1146, 268), product.patterns, _HOLE_MM.get(product.form, 3.4))
    heading(canvas, (960, 496), words.fits)
    rows = [words.head, *((p.fits, f"{p.spacing} mm") for p in product.patterns)]
    high = table(canvas, (960, 512), (210, 190), rows, 17)
    notes(canvas, (960, 512 + high + 34), 400, words.notes)
    table(canvas, (60, 872), (280, 280, 280), list(zip(*product.facts, strict=True)), 17)
    return canvas.finish()


def _mounting(canvas: Canvas, centre: Point, patterns: tuple[Pattern, ...], hole_mm: float) -> None:
    """The hole pattern to scale, every spacing dimensioned."""
    x, y = centre
    scale = 190 / max(max(p.across_mm, p.down_mm) for p in patterns)
    distinct = sorted({(p.across_mm, p.down_mm) for p in patterns})
    reach_x = max(a for a, _ in distinct) * scale / 2 + 26
    reach_y = max(d for _, d in distinct) * scale / 2 + 26
    canvas.rect((x - reach_x, y - reach_y, x + reach_x, y + reach_y), fill=_METAL, radius=14)
    canvas.rect((x - 34, y - 34, x + 34, y + 34), width=1.4)
    cross(canvas, centre, 52)
    for n, (across, down) in enumerate(distinct):
        dx, dy = across * scale / 2, down * scale / 2
        canvas.rect((x - dx, y - dy, x + dx, y + dy), color=RED, width=0.8)
        for px, py in ((x - dx, y - dy), (x + dx, y - dy), (x - dx, y + dy), (x + dx, y + dy)):
            hole(canvas, (px, py), 6.5)
        away = 34 + 26 * n
        horizontal(canvas, x - dx, x + dx, y + reach_y - 12, y + reach_y + away - 4, f"{across:g}")
        vertical(canvas, y - dy, y + dy, x - reach_x + 12, x - reach_x - away + 12, f"{down:g}")
    label = f"{4 * len(distinct)} × Ø {hole_mm:g}"
    leader(canvas, (x + dx + 5, y - dy - 5), (x + dx + 26, y - reach_y - 18), label)


def _blades(canvas: Canvas, centre: Point, radius: float, count: int = 9) -> None:
    """A fan seen from the front: rim, hub and swept blades."""
    canvas.circle(centre, radius, fill=PAPER, width=2)
    hub = radius * 0.34
    for n in range(count):
        start = 2 * math.pi * n / count
        lead = [
            polar(centre, hub + (radius * 0.95 - hub) * t / 8, start + 0.75 * (t / 8) ** 1.3)
            for t in range(9)
        ]
        trail = [
            polar(centre, hub + (radius * 0.95 - hub) * t / 8, start + 0.46 + 0.62 * (t / 8) ** 1.2)
            for t in range(8, -1, -1)
        ]
        canvas.polygon([*lead, *trail], fill=_METAL, width=1.4)
    canvas.circle(centre, hub, fill=_DARK, width=2)
    canvas.circle(centre, hub * 0.62, width=1)
    cross(canvas, centre, radius + 10)


def _fan_front(canvas: Canvas, box: Box, holes_at: float) -> None:
    """A square fan; `holes_at` is the holes' distance from its centre."""
    x0, y0, x1, y1 = box
    centre = ((x0 + x1) / 2, (y0 + y1) / 2)
    canvas.rect(box, fill=_METAL, radius=(x1 - x0) * 0.07)
    _blades(canvas, centre, (x1 - x0) * 0.465)
    for sx in (-1, 1):
        for sy in (-1, 1):
            hole(canvas, (centre[0] + sx * holes_at, centre[1] + sy * holes_at), (x1 - x0) * 0.02)


def _fan_edge(canvas: Canvas, box: Box) -> None:
    """A fan seen from its edge."""
    x0, y0, x1, y1 = box
    canvas.rect(box, fill=PAPER)
    canvas.line([(x0, y0), (x1, y1)], GREY, 1, HIDDEN)
    canvas.line([(x1, y0), (x0, y1)], GREY, 1, HIDDEN)


def _fins(canvas: Canvas, box: Box, count: int, upright: bool) -> None:
    x0, y0, x1, y1 = box
    canvas.rect(box, fill=_METAL)
    for n in range(1, count):
        if upright:
            x = x0 + (x1 - x0) * n / count
            canvas.line([(x, y0), (x, y1)], width=1)
        else:
            y = y0 + (y1 - y0) * n / count
            canvas.line([(x0, y), (x1, y)], width=1)


def _tower_front(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    stack = y1 - 0.24 * (y1 - y0)
    pipes = 5 if product.fans == 1 else 7
    middle, pitch = (x0 + x1) / 2, (x1 - x0) / (pipes + 2)
    for n in range(pipes):
        x = middle + (n - (pipes - 1) / 2) * pitch
        foot = middle + (n - (pipes - 1) / 2) * 9 * scale * 0.8
        canvas.line([(x, stack), (foot, y1 - 12 * scale), (foot, y1 - 4 * scale)], _DARK, 4.4 * scale)
        canvas.line([(x, y0 - 9), (x, stack)], _DARK, 4.4 * scale)
    _fins(canvas, (x0, y0, x1, stack), 34, upright=False)
    if product.fans == 1:
        _blades(canvas, (middle, (y0 + stack) / 2), min(x1 - x0, stack - y0) * 0.46)
    else:
        _blades(canvas, (middle, (y0 + stack) / 2), min(x1 - x0, stack - y0) * 0.48, 7)
    base = 24 * scale
    hatch(canvas, (middle - base, y1 - 9 * scale, middle + base, y1), 7)
    wing = (x1 - x0) * 0.4
    canvas.rect((middle - wing, y1 - 13 * scale, middle + wing, y1 - 9 * scale), fill=_DARK, width=1.6)
    leader(canvas, (x1 - 6, y0 + 26), (x1 + 40, y0 - 30), "Al 6063")
    leader(canvas, (middle + base, y1 - 4), (middle + base + 40, y1 + 24), "Cu")


def _tower_side(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    stack = y1 - 0.24 * (y1 - y0)
    if product.fans == 1:
        fans, towers = [(0, 25)], [(25, product.size_mm[2])]
    else:
        fans, towers = [(0, 25), (68, 93)], [(27, 66), (95, product.size_mm[2])]
    foot = y1 - 13 * scale
    for left, right in towers:
        for part in (1 / 3, 2 / 3):
            x = x0 + (left + (right - left) * part) * scale
            canvas.line([(x, y0 - 9), (x, foot), ((x0 + x1) / 2, foot)], _DARK, 4.4 * scale)
    for left, right in towers:
        _fins(canvas, (x0 + left * scale, y0, x0 + right * scale, stack), 34, upright=False)
    for left, right in fans:
        _fan_edge(canvas, (x0 + left * scale, y0 - 4, x0 + right * scale, stack - 4))
    middle = (x0 + x1) / 2
    hatch(canvas, (middle - 22 * scale, y1 - 16 * scale, middle + 22 * scale, y1), 7)
    canvas.line([(middle, y0 - 26), (middle, y1 + 16)], RED, 1, CHAIN)


def _low_front(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    top = y0 + (15 * scale if product.fans else 0)
    base = 9 * scale
    _fins(canvas, (x0, top, x1, y1 - 12 * scale), 30, upright=True)
    if product.fans:
        canvas.rect((x0 + 4, y0, x1 - 4, top), fill=PAPER, radius=4)
        for n in range(7):
            x = x0 + (x1 - x0) * (n + 1) / 8
            canvas.line([(x - 12, y0 + 8), (x + 12, top - 8)], width=1.6)
    middle = (x0 + x1) / 2
    hatch(canvas, (middle - 22 * scale, y1 - 12 * scale, middle + 22 * scale, y1), base)
    canvas.line([(middle, y0 - 24), (middle, y1 + 20)], RED, 1, CHAIN)
    leader(canvas, (middle + 22 * scale, y1 - 8), (middle + 22 * scale + 34, y1 + 24), "Cu")


def _low_side(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    """The view from above: more telling than a second profile."""
    x0, _, x1, _ = box
    middle, reach = ((x0 + x1) / 2, 420), (x1 - x0) / 2
    square = (middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
    _fins(canvas, square, 34, upright=True)
    if product.fans:
        _blades(canvas, middle, reach * 0.95)
    else:
        cross(canvas, middle, reach + 14)


def _radiator_front(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    tank = (x1 - x0 - product.fans * (y1 - y0)) / 2
    canvas.rect(box, fill=_METAL, radius=8)
    canvas.rect((x0, y0, x0 + tank, y1), fill=_DARK, radius=6, width=1.6)
    canvas.rect((x1 - tank, y0, x1, y1), fill=_DARK, radius=6, width=1.6)
    for n in range(product.fans):
        left = x0 + tank + n * (y1 - y0)
        _fan_front(canvas, (left, y0, left + y1 - y0, y1), 52.5 * scale)
    for y in (y0 + 24, y1 - 24):
        canvas.rect((x1, y - 8, x1 + 26, y + 8), fill=_DARK, width=1.6)
        tube = [(x1 + 26 + 3 * t, y - 34 * math.sin(t / 4)) for t in range(9)]
        canvas.line(tube, GREY, 9)


def _radiator_side(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    _fins(canvas, box, 40, upright=False)
    _, y0, x1, y1 = box
    _fan_edge(canvas, (x1, y0, x1 + 25 * scale, y1))


def _case_fan_front(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    spacing = product.patterns[0].across_mm
    _fan_front(canvas, box, spacing * scale / 2)
    x0, y0, x1, _ = box
    middle = (x0 + x1) / 2
    horizontal(canvas, middle - spacing * scale / 2, middle + spacing * scale / 2, y0 + 18, y0 - 34,
               f"{spacing:g}")  # fmt: skip


def _case_fan_side(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    canvas.rect(box, fill=_METAL)
    for top, bottom in ((y0, y0 + 22), (y1 - 22, y1)):
        hatch(canvas, (x0, top, x0 + 6 * scale * 0.8, bottom))
        hatch(canvas, (x1 - 6 * scale * 0.8, top, x1, bottom))
    middle = (y0 + y1) / 2
    canvas.rect((x0 + 6, middle - 34 * scale * 0.6, x1 - 6, middle + 34 * scale * 0.6), fill=_DARK)
    canvas.line([(x0 - 26, middle), (x1 + 26, middle)], RED, 1, CHAIN)


def _bracket_front(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    cut = 8 * scale
    outline = [
        (x0 + cut, y0), (x1 - cut, y0), (x1, y0 + cut), (x1, y1 - cut),
        (x1 - cut, y1), (x0 + cut, y1), (x0, y1 - cut), (x0, y0 + cut),
    ]  # fmt: skip
    canvas.polygon(outline, fill=_METAL, width=2.4)
    window = min(x1 - x0, y1 - y0) * 0.25
    canvas.rect((x - window, y - window, x + window, y + window), fill=PAPER, radius=14)
    cross(canvas, (x, y), window + 22)
    for across, down in sorted({(p.across_mm, p.down_mm) for p in product.patterns}):
        for sx in (-1, 1):
            for sy in (-1, 1):
                hole(canvas, (x + sx * across * scale / 2, y + sy * down * scale / 2), 2 * scale)
    widest = max(p.across_mm for p in product.patterns)
    horizontal(canvas, x - widest * scale / 2, x + widest * scale / 2, y0 + 6, y0 - 34, f"{widest:g}")
    leader(canvas, (x + window, y + window - 10), (x1 + 24, y1 + 26), "R 4")


def _bracket_side(canvas: Canvas, box: Box, product: Product, scale: float) -> None:
    x0, y0, x1, y1 = box
    thick = max(x1 - x0, 10)
    hatch(canvas, ((x0 + x1 - thick) / 2, y0, (x0 + x1 + thick) / 2, y1))
    middle = (y0 + y1) / 2
    canvas.line([(x0 - 40, middle), (x1 + 40, middle)], RED, 1, CHAIN)


_FRONT = {
    "tower": _tower_front,
    "low": _low_front,
    "radiator": _radiator_front,
    "fan": _case_fan_front,
    "bracket": _bracket_front,
}
_SIDE = {
    "tower": _tower_side,
    "low": _low_side,
    "radiator": _radiator_side,
    "fan": _case_fan_side,
    "bracket": _bracket_side,
}
