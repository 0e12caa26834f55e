"""Charts whose figures stand only in the picture; the text beside them names the topic. All invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from pipelines.demo.canvas import GREY, INK, PAPER, Canvas, text_width

WIDTH, HEIGHT = 900, 600
_LEFT, _TOP, _RIGHT, _BOTTOM = 90.0, 120.0, 860.0, 510.0
_COLOURS = ("#2f6db5", "#e08a2c", "#3f9c72", "#b8434f", "#7d62b0", "#8a8f98")
_GRID = "#d9dee4"


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    id: str
    form: Literal["bars", "rows", "line", "pie"]
    lang: Literal["en", "zh"]
    year: int
    title: str
    unit: str
    ticks: tuple[str, ...]
    series: tuple[Series, ...]
    text: str
    caption: str


def draw(chart: Chart) -> Image.Image:
    canvas = Canvas(WIDTH, HEIGHT, "#ffffff")
    canvas.rect((0, 0, WIDTH, 8), fill=_COLOURS[0], color=None)
    canvas.text((40, 58), chart.title, 27, bold=True)
    canvas.text((40, 88), chart.unit, 16, color=GREY)
    note = "示例数据" if chart.lang == "zh" else "Example data"
    canvas.text((WIDTH - 24, HEIGHT - 14), note, 12, "rs", GREY)
    _FORMS[chart.form](canvas, chart)
    return canvas.finish()


def _legend(canvas: Canvas, chart: Chart) -> None:
    x = _RIGHT
    for n, series in reversed(list(enumerate(chart.series))):
        x -= text_width(series.name, 16) + 40
        canvas.rect((x, 76, x + 16, 92), fill=_COLOURS[n], color=None, radius=3)
        canvas.text((x + 22, 90), series.name, 16)


def _scale(chart: Chart) -> tuple[float, float]:
    """The axis's top and its step: four or five round numbers that hold every value."""
    top = max(max(series.values) for series in chart.series)
    steps = (0.5, 1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000)
    step = next(s for s in steps if s * 5 >= top)
    return step * -(-top // step), step


def _grid(canvas: Canvas, chart: Chart) -> float:
    """Horizontal grid lines and their figures; returns pixels per unit."""
    top, step = _scale(chart)
    per_unit = (_BOTTOM - _TOP) / top
    for n in range(round(top / step) + 1):
        y = _BOTTOM - n * step * per_unit
        canvas.line([(_LEFT, y), (_RIGHT, y)], _GRID if n else INK, 1 if n else 2)
        canvas.text((_LEFT - 12, y), f"{n * step:g}", 15, "rm", GREY)
    return per_unit


def _bars(canvas: Canvas, chart: Chart) -> None:
    per_unit = _grid(canvas, chart)
    if len(chart.series) > 1:
        _legend(canvas, chart)
    slot = (_RIGHT - _LEFT) / len(chart.ticks)
    width = slot * 0.68 / len(chart.series)
    for t, tick in enumerate(chart.ticks):
        left = _LEFT + slot * (t + 0.16)
        canvas.text((_LEFT + slot * (t + 0.5), _BOTTOM + 28), tick, 17, "ms")
        for n, series in enumerate(chart.series):
            x, y = left + n * width, _BOTTOM - series.values[t] * per_unit
            canvas.rect((x + 2, y, x + width - 2, _BOTTOM), fill=_COLOURS[n], color=None)
            canvas.text((x + width / 2, y - 6), f"{series.values[t]:g}", 15, "ms")


def _rows(canvas: Canvas, chart: Chart) -> None:
    series = chart.series[0]
    left = 40 + max(text_width(tick, 17) for tick in chart.ticks) + 16
    per_unit = (_RIGHT - 70 - left) / max(series.values)
    slot = (_BOTTOM - _TOP + 30) / len(chart.ticks)
    for t, (tick, value) in enumerate(zip(chart.ticks, series.values, strict=True)):
        y = _TOP + slot * (t + 0.5)
        canvas.text((left - 14, y), tick, 17, "rm")
        canvas.rect(
            (left, y - slot * 0.32, left + value * per_unit, y + slot * 0.32),
            fill=_COLOURS[t % len(_COLOURS)],
            color=None,
        )
        canvas.text((left + value * per_unit + 10, y), f"{value:g}", 17, "lm", bold=True)
    canvas.line([(left, _TOP), (left, _BOTTOM + 30)], INK, 2)


def _line(canvas: Canvas, chart: Chart) -> None:
    per_unit = _grid(canvas, chart)
    _legend(canvas, chart)
    slot = (_RIGHT - _LEFT) / len(chart.ticks)
    for t, tick in enumerate(chart.ticks):
        canvas.text((_LEFT + slot * (t + 0.5), _BOTTOM + 28), tick, 16, "ms")
    for n, series in enumerate(chart.series):
        points = [
            (_LEFT + slot * (t + 0.5), _BOTTOM - value * per_unit) for t, value in enumerate(series.values)
        ]
        canvas.line(points, _COLOURS[n], 3.5)
        for t, (point, value) in enumerate(zip(points, series.values, strict=True)):
            canvas.circle(point, 5, fill=PAPER, color=_COLOURS[n], width=2.5)
            above = value == max(other.values[t] for other in chart.series)
            canvas.text((point[0], point[1] + (-12 if above else 24)), f"{value:g}", 14, "ms", _COLOURS[n])


def _pie(canvas: Canvas, chart: Chart) -> None:
    values = chart.series[0].values
    total, start = sum(values), -90.0
    for n, (tick, value) in enumerate(zip(chart.ticks, values, strict=True)):
        end = start + 360 * value / total
        canvas.slice((280, 340), 205, start, end, _COLOURS[n])
        start = end
        y = 220 + 50 * n
        canvas.rect((560, y - 18, 582, y + 4), fill=_COLOURS[n], color=None, radius=4)
        canvas.text((596, y), tick, 20)
        canvas.text((850, y), f"{value:g} %", 20, "rs", bold=True)
    canvas.circle((280, 340), 95, fill="#ffffff", color=None)


_FORMS = {"bars": _bars, "rows": _rows, "line": _line, "pie": _pie}
_MONTHS = ("Jan", "Mar", "May", "Jul", "Sep", "Nov")

CHARTS = (
    Chart(
        "chart-coffee-exports", "bars", "en", 2024, "Coffee exports by region", "thousand tonnes",
        ("Highlands", "Coast", "Lake", "Valley", "Islands"),
        (Series("2024", (182, 96, 141, 67, 38)),),
        "The yearly report on coffee: how many bags each growing region sold abroad.",
        "Bar chart: coffee exports by region",
    ),
    Chart(
        "chart-quarterly-sales", "bars", "zh", 2025, "各季度销售额", "百万元",
        ("第一季度", "第二季度", "第三季度", "第四季度"),
        (Series("线上", (32, 41, 38, 57)), Series("门店", (45, 43, 36, 40))),
        "公司年度报告：按季度统计的线上和门店销售额对比。",
        "柱状图：各季度线上与门店销售额",
    ),
    Chart(
        "chart-temperature", "line", "en", 2023, "Monthly temperature of two cities", "°C, mean",
        _MONTHS,
        (Series("Harbour", (6, 9, 15, 21, 18, 10)), Series("Plateau", (2, 8, 17, 25, 16, 5))),
        "Weather statistics: the temperature over the year in a town by the sea and one in the hills.",
        "Line chart: monthly temperature of two cities",
    ),
    Chart(
        "chart-museum-visitors", "line", "zh", 2024, "博物馆参观人数", "万人次",
        ("2019", "2020", "2021", "2022", "2023", "2024"),
        (Series("成人", (42, 11, 19, 30, 46, 51)), Series("学生", (28, 6, 12, 22, 35, 39))),
        "近几年博物馆参观人数的变化，成人与学生分别统计。",
        "折线图：博物馆参观人数",
    ),
    Chart(
        "chart-energy-mix", "pie", "en", 2025, "Where the electricity comes from", "share of generation",
        ("Wind", "Solar", "Hydro", "Gas", "Nuclear"),
        (Series("2025", (34, 22, 15, 18, 11)),),
        "The energy mix: which sources the country's electricity was generated from.",
        "Pie chart: sources of electricity",
    ),
    Chart(
        "chart-household-spending", "pie", "zh", 2024, "家庭月度支出构成", "占总支出比例",
        ("房租", "饮食", "交通", "教育", "其他"),
        (Series("2024", (31, 27, 12, 18, 12)),),
        "家庭账本：一个三口之家每个月的钱都花到哪里去了。",
        "饼图：家庭月度支出构成",
    ),
    Chart(
        "chart-cooler-noise", "rows", "en", 2025, "Noise of coolers at full load", "dB(A) at one metre",
        ("Box cooler", "Small tower", "Large tower", "Liquid, short", "Liquid, long"),
        (Series("dB(A)", (41, 33, 27, 35, 31)),),
        "A magazine measured how loud different kinds of processor coolers are under full load.",
        "Bar chart: noise of processor coolers at full load",
    ),
    Chart(
        "chart-battery-ageing", "line", "en", 2024, "Battery capacity over charge cycles", "% of new",
        ("0", "200", "400", "600", "800", "1000"),
        (Series("Cell A", (100, 97, 93, 88, 81, 72)), Series("Cell B", (100, 98, 96, 93, 90, 86))),
        "Laboratory test of two rechargeable cells: how they age as they are charged again and again.",
        "Line chart: battery ageing",
    ),
    Chart(
        "chart-train-punctuality", "rows", "zh", 2023, "各线路列车准点率", "%",
        ("一号线", "二号线", "三号线", "机场线", "环线"),
        (Series("%", (98.2, 94.7, 91.3, 99.1, 88.6)),),
        "地铁运营报告：各条线路的列车是否准时到达。",
        "条形图：地铁各线路准点率",
    ),
)  # fmt: skip

# Not in the corpus: a question's picture, on another subject.
PIE_TO_COMPARE = Chart(
    "query-pie", "pie", "en", 2025, "Waste by material", "share of weight",
    ("Paper", "Glass", "Plastic", "Metal"),
    (Series("2025", (41, 16, 29, 14)),),
    "", "",
)  # fmt: skip
