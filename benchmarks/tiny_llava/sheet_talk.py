"""Questions about a drawn sheet and their answers, in English and Chinese. Knows nothing of files."""

from __future__ import annotations

import random

from benchmarks.tiny_llava.fields import FIELDS, KINDS, READ, stated
from benchmarks.tiny_llava.sheets import Box, Drawn, Sheet
from benchmarks.tiny_llava.split import Asked, Language, Part, Phrases
from pipelines.core.grounding import format_boxes
from pipelines.core.prompts import NO_ANSWER

MODEL = {
    "en": Phrases(
        ("Which model is it?", "Read the model code.", "Tell me the code."),
        ("Please tell me the model code.",),
    ),
    "zh": Phrases(("这是什么型号？", "读出型号。", "请问型号？"), ("请读出它的型号。",)),
}
KIND = {
    "en": Phrases(
        ("What product is this?", "What does the sheet show?", "Which product is on the sheet?"),
        ("Which product does this sheet show?",),
    ),
    "zh": Phrases(("这是什么产品？", "图上是什么？", "请问这是哪种产品？"), ("请问图上是什么产品？",)),
}
WHERE = {
    "en": Phrases(
        (
            "Where is the {thing}?",
            "Give the box of the {thing}.",
            "Find the {thing}.",
            "Please give the box of the {thing}.",
            "Show me where the {thing} is.",
            "Where do you find the {thing}?",
            "The box of the {thing}, please.",
            "Please show where the {thing} is.",
            "Please mark the {thing}.",
            "Can you find the {thing}?",
            "Find me the {thing}, please.",
        ),
        ("Please find the {thing}.", "Where is the box of the {thing}?"),
    ),
    "zh": Phrases(
        (
            "{thing}在哪里？",
            "给出{thing}的框。",
            "找出{thing}。",
            "请给出{thing}的框。",
            "请问{thing}在哪里？",
            "{thing}的框在哪里？",
            "请标出{thing}。",
            "标出{thing}的框。",
        ),
        ("请找出{thing}。",),
    ),
}
DESCRIBE = {
    "en": Phrases(
        ("Describe the sheet.", "What is on the sheet?", "Read the whole sheet."),
        ("Please describe the whole sheet.",),
    ),
    "zh": Phrases(("描述这张图。", "图上有什么？", "读出整张图。"), ("请描述整张图。",)),
}
_DRAWING = {"en": "drawing", "zh": "图形"}


def values(sheet: Sheet, rng: random.Random, part: Part, language: Language) -> list[Asked]:
    """What each row says, in random order."""
    asked = [
        Asked(
            _one(READ[language], part, rng).format(field=field.label(language)),
            stated(field, value, language),
            field.key,
        )
        for field, value in sheet.rows
    ]
    rng.shuffle(asked)
    return asked


def missing(sheet: Sheet, rng: random.Random, part: Part, language: Language) -> Asked:
    """A field that the sheet does not tell of: NO_ANSWER."""
    told = {field for field, _ in sheet.rows}
    field = rng.choice([field for field in FIELDS if field not in told])
    return Asked(
        _one(READ[language], part, rng).format(field=field.label(language)), NO_ANSWER[language], field.key
    )


def model(sheet: Sheet, rng: random.Random, part: Part, language: Language) -> Asked:
    return Asked(_one(MODEL[language], part, rng), sheet.code, "model")


def kind(sheet: Sheet, rng: random.Random, part: Part, language: Language) -> Asked:
    return Asked(_one(KIND[language], part, rng), KINDS[sheet.kind][language == "zh"], "kind")


def drawing_box(drawn: Drawn, rng: random.Random, part: Part, language: Language) -> Asked:
    return _where(_DRAWING[language], drawn.boxes["drawing"], rng, part, language)


def value_box(sheet: Sheet, drawn: Drawn, rng: random.Random, part: Part, language: Language) -> Asked:
    field, _ = rng.choice(sheet.rows)
    return _where(field.label(language), drawn.boxes[field.key], rng, part, language)


def description(sheet: Sheet, rng: random.Random, part: Part, language: Language) -> Asked:
    """All that is written on the sheet, row by row: it teaches reading more than any question."""
    product = KINDS[sheet.kind][language == "zh"]
    rows = [f"{field.label(language)} {value}" for field, value in sheet.rows]
    if language == "en":
        text = f"A sheet of the {product} {sheet.code}: {', '.join(rows)}."
    else:
        text = f"{product} {sheet.code}：{'，'.join(rows)}。"
    return Asked(_one(DESCRIBE[language], part, rng), text, "describe")


def _where(thing: str, box: Box, rng: random.Random, part: Part, language: Language) -> Asked:
    return Asked(_one(WHERE[language], part, rng).format(thing=thing), format_boxes([box]), "box")


def _one(phrases: Phrases, part: Part, rng: random.Random) -> str:
    return rng.choice(phrases.of(part))
