"""Mathematics problems on paper: printed questions, hand-drawn figures and working, photographed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

from pipelines.demo.canvas import Canvas, Point, glyphs, polar, text_width, wrap
from pipelines.demo.paper import Shot, notebook, photograph

WIDTH, HEIGHT = 800, 600
_PENCIL = "#3a3f47"
_PEN = "#1f3f94"
_CORRECTING = "#b8322a"


@dataclass(frozen=True, slots=True)
class Problem:
    """`question` is printed on the page, `working` written by hand; `text` is the corpus's solution."""

    id: str
    lang: Literal["en", "zh"]
    topic: str
    ruling: Literal["lines", "squares", "plain"]
    question: str
    working: tuple[str, ...]
    figure: Callable[[Page], None]
    text: str
    caption: str


class Page:
    """A page being drawn by hand: every stroke wavers a little."""

    def __init__(self, ruling: str, rng: np.random.Generator) -> None:
        self.rng = rng
        self.canvas = Canvas(WIDTH, HEIGHT, notebook(WIDTH, HEIGHT, ruling, rng))

    def stroke(self, points: Sequence[Point], color: str = _PENCIL, width: float = 2.6) -> None:
        """A line by hand through `points`, with a slow waver of a pixel or two."""
        drawn: list[Point] = []
        for (x0, y0), (x1, y1) in pairwise(points):
            steps = max(2, round(math.hypot(x1 - x0, y1 - y0) / 26))
            waver = self.rng.normal(0, 0.9, (steps, 2))
            drawn += [
                (x0 + (x1 - x0) * n / steps + waver[n, 0], y0 + (y1 - y0) * n / steps + waver[n, 1])
                for n in range(steps)
            ]
        self.canvas.line([*drawn, points[-1]], color, width)

    def circle(self, centre: Point, radius: float) -> None:
        start = self.rng.uniform(0, 1)
        turns = [start + 2.02 * math.pi * n / 60 for n in range(61)]
        reach = radius + np.cumsum(self.rng.normal(0, 0.25, 61))
        self.canvas.line([polar(centre, r, t) for r, t in zip(reach, turns, strict=True)], _PENCIL, 2.6)

    def arc(self, centre: Point, radius: float, start: float, end: float) -> None:
        """Degrees clockwise from three o'clock."""
        turns = [math.radians(start + (end - start) * n / 12) for n in range(13)]
        self.canvas.line([polar(centre, radius, t) for t in turns], _PENCIL, 2)

    def write(self, at: Point, text: str, size: float = 34, color: str = _PEN) -> None:
        """Handwriting: each character a little off the line and out of true."""
        x, y = at
        for char in text:
            face: Literal["hand", "print"] = "hand" if char in glyphs("hand") else "print"
            fit = size if face == "hand" else size * 0.78
            dy, turn = self.rng.normal(0, size * 0.025), self.rng.normal(0, 2.5)
            if char != " ":
                self.canvas.text((x, y + dy), char, fit, color=color, angle=turn, face=face)
            x += text_width(char, fit, face)

    def label(self, at: Point, text: str) -> None:
        self.write((at[0] - 8, at[1] + 10), text, 32, _PENCIL)

    def axes(self, origin: Point, left: float, right: float, up: float, down: float) -> None:
        x, y = origin
        for end, wings in (((x + right, y), ((-12, -6), (-12, 6))), ((x, y - up), ((-6, 12), (6, 12)))):
            self.stroke([(x - left, y) if end[1] == y else (x, y + down), end])
            for dx, dy in wings:
                self.stroke([end, (end[0] + dx, end[1] + dy)])
        self.label((x + right + 4, y + 22), "x")
        self.label((x + 18, y - up + 4), "y")

    def curve(
        self, origin: Point, unit: float, f: Callable[[float], float], start: float, end: float
    ) -> None:
        xs = [start + (end - start) * n / 40 for n in range(41)]
        self.canvas.line([(origin[0] + x * unit, origin[1] - f(x) * unit) for x in xs], _CORRECTING, 3)


def draw(problem: Problem, rng: np.random.Generator) -> Image.Image:
    """The page, photographed."""
    page = Page(problem.ruling, rng)
    size, y = 24, 56.0
    for line in wrap(problem.question, size, WIDTH - 170):
        page.canvas.text((96, y), line, size)
        y += 36
    problem.figure(page)
    for n, line in enumerate(problem.working):
        page.write((492, 300 + 56 * n), line)
    tilt = 0.07 if problem.ruling == "plain" else 0.05
    return photograph(page.canvas.finish(), rng, Shot(tilt=tilt, warmth=rng.uniform(-0.03, 0.07)))


def right_triangle(page: Page, base: str, height: str, corners: str = "ABC") -> None:
    a, b, c = (120.0, 470.0), (400.0, 470.0), (400.0, 230.0)
    page.stroke([a, b, c, a])
    page.stroke([(378, 470), (378, 448), (400, 448)])
    for at, name in zip(((100, 482), (416, 486), (408, 212)), corners, strict=True):
        page.label(at, name)
    page.label((250, 500), base)
    page.label((424, 350), height)
    page.label((236, 330), "?")


def _triangle(page: Page) -> None:
    a, b, c = (110.0, 480.0), (420.0, 480.0), (260.0, 220.0)
    page.stroke([a, b, c, a])
    page.arc(a, 44, -58, 0)
    for at, text in (((92, 500), "A"), ((432, 494), "C"), ((262, 196), "B"), ((166, 452), "60°")):
        page.label(at, text)
    page.label((158, 340), "5")
    page.label((262, 510), "7")


def _equilateral(page: Page) -> None:
    a, b, c = (120.0, 480.0), (420.0, 480.0), (270.0, 220.0)
    page.stroke([a, b, c, a])
    page.stroke([c, (270, 480)])
    page.stroke([(270, 462), (288, 462), (288, 480)])
    for at, text in (((170, 340), "4"), ((366, 340), "4"), ((210, 508), "4"), ((288, 390), "h")):
        page.label(at, text)


def _sector(page: Page) -> None:
    centre = (260.0, 370.0)
    page.circle(centre, 140)
    for turn in (-72, 0):
        t = math.radians(turn)
        page.stroke([centre, polar(centre, 140, t)])
    for n in range(7):
        t = math.radians(-66 + 10 * n)
        page.stroke([polar(centre, 60, t), polar(centre, 132, t)], width=1.4)
    page.arc(centre, 34, -72, 0)
    page.label((340, 398), "5")
    page.label((300, 345), "72°")
    page.label((244, 392), "O")


def _tangent(page: Page) -> None:
    centre, outside = (210.0, 370.0), (430.0, 370.0)
    radius = 132.0
    t = math.acos(radius / (outside[0] - centre[0]))
    touch = polar(centre, radius, -t)
    page.circle(centre, radius)
    page.stroke([centre, outside, touch, centre])
    page.label((touch[0] + 8, touch[1] - 20), "A")
    for at, text in (((192, 388), "O"), ((446, 372), "P"), ((300, 396), "5"), ((230, 314), "3")):
        page.label(at, text)


def _inscribed(page: Page) -> None:
    centre, radius = (260.0, 370.0), 140.0
    a, b, c = (polar(centre, radius, math.radians(t)) for t in (140, 40, -90))
    page.circle(centre, radius)
    page.stroke([a, c, b])
    page.stroke([a, centre, b])
    page.arc(centre, 30, 40, 140)
    page.label((a[0] - 18, a[1] + 14), "A")
    page.label((b[0] + 14, b[1] + 14), "B")
    page.label((c[0], c[1] - 18), "C")
    page.label((240, 440), "100°")
    page.label((278, 360), "O")


def _parabola(page: Page) -> None:
    origin, unit = (170.0, 420.0), 58.0
    page.axes(origin, 70, 240, 200, 110)
    page.curve(origin, unit, lambda x: x * x - 4 * x + 3, -0.1, 4.1)
    for x in (1, 3):
        page.label((origin[0] + x * unit, origin[1] + 24), str(x))


def _lines(page: Page) -> None:
    origin, unit = (170.0, 470.0), 44.0
    page.axes(origin, 70, 260, 260, 70)
    page.curve(origin, unit, lambda x: 2 * x - 1, -0.2, 3.2)
    page.curve(origin, unit, lambda x: 5 - x, -0.8, 5.6)
    page.stroke([(origin[0] + 2 * unit, origin[1]), (origin[0] + 2 * unit, origin[1] - 3 * unit)], width=1.2)
    page.label((origin[0] + 2.4 * unit, origin[1] - 3.1 * unit), "P")


def _sine(page: Page) -> None:
    origin, unit = (130.0, 400.0), 86.0
    page.axes(origin, 40, 310, 170, 120)
    page.curve(origin, unit, math.sin, -0.3, 3.5)
    for n in range(1, 13):
        x = n * math.pi / 13
        top = (origin[0] + x * unit, origin[1] - math.sin(x) * unit)
        page.stroke([(origin[0] + x * unit, origin[1]), top], width=1.2)
    page.label((origin[0] + math.pi * unit, origin[1] + 26), "π")


def _trapezium(page: Page) -> None:
    page.stroke([(110, 470), (430, 470), (340, 270), (190, 270), (110, 470)])
    page.stroke([(190, 270), (190, 470)], width=1.8)
    page.stroke([(190, 452), (208, 452), (208, 470)])
    for at, text in (((264, 250), "4"), ((264, 500), "10"), ((208, 380), "5")):
        page.label(at, text)


def _quadratic(page: Page) -> None:
    for n, line in enumerate(("x² − 5x + 6 = 0", "(x − 2)(x − 3) = 0", "x = 2  or  x = 3")):
        page.write((110, 220 + 92 * n), line.replace("−", "-"), 54)


PROBLEMS = (
    Problem(
        "math-right-triangle", "en", "geometry", "squares",
        "1. In the right triangle ABC find the length of the longest side.",
        ("c² = 6² + 8²", "c² = 100", "c = 10"),
        lambda page: right_triangle(page, "8", "6"),
        "Worked solution: Pythagoras' theorem. The square over the hypotenuse of a right triangle is the "
        "sum of the squares over its legs, so the hypotenuse is 10.",
        "Photographed homework: the hypotenuse of a right triangle",
    ),
    Problem(
        "math-cosine-rule", "zh", "geometry", "lines",
        "2. 在三角形 ABC 中，∠A = 60°，求 BC 的长。",
        ("a² = 5² + 7² - 35", "a² = 39"),
        _triangle,
        "解答：已知两边及其夹角，用余弦定理求第三边，得 BC 等于根号三十九。",
        "拍照作业：用余弦定理求三角形的边长",
    ),
    Problem(
        "math-equilateral", "en", "geometry", "plain",
        "3. All sides are 4 cm long. How high is the triangle?",
        ("h² = 4² - 2²", "h² = 12"),
        _equilateral,
        "Worked solution: the height of an equilateral triangle halves its base; Pythagoras gives two "
        "times the square root of three.",
        "Photographed homework: the height of an equilateral triangle",
    ),
    Problem(
        "math-sector", "en", "geometry", "squares",
        "4. A circle has a radius of 5 cm. What is the area of the shaded sector?",
        ("72 : 360 = 1 : 5", "25π : 5 = 5π"),
        _sector,
        "Worked solution: the sector is one fifth of the disc, so its area is five pi, about 15.7 square "
        "centimetres.",
        "Photographed homework: the area of a sector of a circle",
    ),
    Problem(
        "math-tangent", "zh", "geometry", "plain",
        "5. PA 是圆 O 的切线，OA = 3，OP = 5，求 PA。",
        ("PA² = 5² - 3²", "PA = 4"),
        _tangent,
        "解答：切线垂直于过切点的半径，由勾股定理得切线长等于四。",
        "拍照作业：圆的切线长",
    ),
    Problem(
        "math-inscribed-angle", "zh", "geometry", "lines",
        "6. 圆心角 AOB = 100°，求圆周角 ACB。",
        ("100° : 2 = 50°",),
        _inscribed,
        "解答：同弧所对的圆周角等于圆心角的一半，所以是五十度。",
        "拍照作业：圆周角与圆心角",
    ),
    Problem(
        "math-parabola", "en", "functions", "squares",
        "7. Where does the parabola y = x² − 4x + 3 cross the x axis?",
        ("(x - 1)(x - 3) = 0", "x = 1, x = 3"),
        _parabola,
        "Worked solution: factor the quadratic function; its graph crosses the axis at one and at three, "
        "and the vertex lies between them, below the axis.",
        "Photographed homework: the zeros of a parabola",
    ),
    Problem(
        "math-two-lines", "zh", "functions", "squares",
        "8. 求直线 y = 2x − 1 与 y = −x + 5 的交点。",
        ("2x - 1 = -x + 5", "x = 2, y = 3"),
        _lines,
        "解答：联立两个一次函数，解方程组，得到交点坐标。",
        "拍照作业：两条直线的交点",
    ),
    Problem(
        "math-sine-area", "en", "functions", "plain",
        "9. Find the area between one arch of the sine curve and the x axis.",
        ("-cos π + cos 0", "= 2"),
        _sine,
        "Worked solution: integrate the sine from zero to pi; the area under one arch is exactly two.",
        "Photographed homework: the integral of the sine",
    ),
    Problem(
        "math-trapezium", "zh", "geometry", "lines",
        "10. 求下面梯形的面积。",
        ("(4 + 10) · 5 : 2", "= 35"),
        _trapezium,
        "解答：梯形面积等于上底加下底，乘以高，再除以二。",
        "拍照作业：梯形的面积",
    ),
    Problem(
        "math-quadratic", "en", "algebra", "lines",
        "11. Solve the equation by factoring.",
        (),
        _quadratic,
        "Worked solution: find two numbers whose product is six and whose sum is five, and write the "
        "quadratic equation as a product of two brackets.",
        "Photographed homework: a quadratic equation solved by factoring",
    ),
)  # fmt: skip
