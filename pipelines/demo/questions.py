"""The questions that the demo asks, and the documents that answer them.

Written before any search was run, and not to be adjusted to what a search finds: a cross in the
report is a finding about the models, not a fault of the question. `expected` lists every document
that answers; one of them among the first five hits is a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "text", "image", "visually_similar"]


@dataclass(frozen=True, slots=True)
class Question:
    """`image` is relative to the corpus folder; `shows` says what the question is there to show."""

    id: str
    shows: str
    expected: tuple[str, ...]
    text: str = ""
    image: str = ""
    mode: Mode = "auto"
    filter: str = ""


QUESTIONS = (
    Question(
        "quiet-cooler", "English text to a drawing",
        ("spec-ac-120",),
        text="Which quiet CPU cooler suits a home office, and what is its mounting hole spacing?",
    ),
    Question(
        "thin-case", "Chinese text to a drawing",
        ("spec-ac-47l",),
        text="机箱很薄，放不下塔式散热器，该用哪一款？",
    ),
    Question(
        "rattling-switch", "Chinese question, other words than the text's",
        ("spec-cf-80",),
        text="路由交换机的风扇噪音很大，换哪一款小风扇？",
    ),
    Question(
        "cat", "English words to a photograph without any text",
        ("photo-chelsea",),
        text="a cat looking at you",
    ),
    Question(
        "coffee", "Chinese words to a photograph without any text",
        ("photo-coffee",),
        text="一杯咖啡",
    ),
    Question(
        "launch", "English words to a photograph with text in both languages",
        ("photo-rocket",),
        text="rocket ready for launch in the evening",
    ),
    Question(
        "fundus", "Across languages: the photograph has only Chinese text",
        ("photo-retina",),
        text="photograph of the back of a healthy eye",
    ),
    Question(
        "coffee-again", "Picture only: cropped, mirrored and darkened",
        ("photo-coffee",),
        image="queries/coffee-crop.jpg", mode="image",
    ),
    Question(
        "which-sockets", "Picture and text: a phone's photograph of part of a drawing",
        ("spec-ac-120",),
        text="this cooler: which sockets does it fit?",
        image="queries/cooler-photo.jpg",
    ),
    Question(
        "similar-triangle", "Look-alikes: a new triangle, other figures, other paper",
        ("math-right-triangle", "math-cosine-rule", "math-equilateral"),
        image="queries/triangle.jpg", mode="visually_similar",
    ),
    Question(
        "similar-pie", "Look-alikes: a pie chart on another subject, in other colours",
        ("chart-energy-mix", "chart-household-spending"),
        image="queries/pie.png", mode="visually_similar",
    ),
    Question(
        "electricity", "English text to a chart; its figures stand only in the picture",
        ("chart-energy-mix",),
        text="What share of electricity comes from wind?",
    ),
    Question(
        "spending", "Chinese text to a chart, filtered",
        ("chart-household-spending",),
        text="每个月的房租占多少？", filter='category == "chart" and lang == "zh"',
    ),
    Question(
        "one-product", "A filter on one product: nothing else may be found",
        ("spec-ac-120",),
        text="安装孔距是多少？", filter='product_id == "AC-120"',
    ),
)  # fmt: skip
