"""Questions over numbered evidence, with answers that cite it, and some that it does not answer.

The words around evidence and question are `core.prompts`', those of serving. Names and numbers of the test
are never trained on (`split.py`). Knows nothing of files or drawing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.tiny_llava.fields import FIELDS, KINDS, Field, code, name
from benchmarks.tiny_llava.sheets import Sheet
from benchmarks.tiny_llava.split import Asked, Language, Part, Phrases
from pipelines.core.prompts import NO_ANSWER, evidence_prompt

ASK = {
    "en": Phrases(
        (
            "What is the {field} of {name}?",
            "How much is the {field} of {name}?",
            "Tell me the {field} of {name}.",
            "What {field} does {name} have?",
        ),
        ("Please tell me what the {field} of {name} is.", "What does it say for the {field} of {name}?"),
    ),
    "zh": Phrases(
        (
            "{name}的{field}是多少？",
            "请问{name}的{field}？",
            "{name}有多少{field}？",
            "读出{name}的{field}。",
        ),
        ("请问{name}的{field}是多少？",),
    ),
}
_SENTENCES = {
    "en": (
        "The {field} of {name} is {value}.",
        "{name} has a {field} of {value}.",
        "For {name} the {field} is {value}.",
        "{name}: {field} {value}.",
    ),
    "zh": ("{name}的{field}是{value}。", "{name}，{field}为{value}。", "{name}：{field} {value}。"),
}
_MORE = {
    "en": (" Its {field} is {value}.", " The {field} is {value}."),
    "zh": ("它的{field}是{value}。", "{field}为{value}。"),
}
_FILLERS = {
    "en": (
        "Clean it with a dry cloth.",
        "Keep it away from water.",
        "Two screws hold the cover.",
        "The box holds a short guide.",
        "It is quiet and strong.",
        "Sold since last year.",
    ),
    "zh": ("请用干布擦。", "远离水。", "附有说明。", "它很安静。", "去年上市。", "由两个螺丝固定。"),
}
_SHEET = {"en": "Sheet of {name}", "zh": "{name}的图"}
_MOST = 4


@dataclass(frozen=True, slots=True)
class _Item:
    """One piece of evidence: `values` of some fields of a product, or of none."""

    name: str
    values: tuple[tuple[Field, str], ...]
    text: str


def asked(rng: random.Random, part: Part, language: Language, answerable: bool) -> Asked:
    """One to four texts and a question. The answer is "VALUE [n]" or NO_ANSWER.

    Where there is none, the question is of a product that no text names, or of a field that only other
    products have.
    """
    items = _items(rng, part, language)
    holding = [number for number, item in enumerate(items) if item.values]
    at = rng.choice(holding)
    about, (field, value) = items[at].name, rng.choice(items[at].values)
    answer = f"{value} [{at + 1}]"
    if not answerable:
        about, field = _unanswered(rng, part, language, items, at)
        answer = NO_ANSWER[language]
    return Asked(_prompt(rng, part, language, items, about, field), answer, field.key)


def asked_of_sheet(
    sheet: Sheet, rng: random.Random, part: Part, language: Language, answerable: bool
) -> Asked:
    """The same where one of one to three pieces of evidence is the sheet's picture."""
    about = _product(language, sheet.kind, sheet.code)
    others = [item for item in _items(rng, part, language) if item.name != about][: rng.choice((0, 1, 2))]
    at = rng.randrange(len(others) + 1)
    shown = _Item(about, sheet.rows, _SHEET[language].format(name=about))
    items = [*others[:at], shown, *others[at:]]
    field, value = rng.choice(sheet.rows)
    answer = f"{value} [{at + 1}]"
    if not answerable:
        about, field = _unanswered(rng, part, language, items, at)
        answer = NO_ANSWER[language]
    return Asked(_prompt(rng, part, language, items, about, field, (at + 1,)), answer, field.key)


def _prompt(
    rng: random.Random,
    part: Part,
    language: Language,
    items: list[_Item],
    about: str,
    field: Field,
    pictures: tuple[int, ...] = (),
) -> str:
    question = rng.choice(ASK[language].of(part)).format(field=field.label(language), name=about)
    return evidence_prompt(question, [item.text for item in items], pictures).text


def _unanswered(
    rng: random.Random, part: Part, language: Language, items: list[_Item], at: int
) -> tuple[str, Field]:
    known = {item.name for item in items}
    if rng.random() < 0.5:
        while (about := _named(rng, part, language)) in known:
            pass
        # A field that is there, of a product that is not.
        return about, rng.choice(items[at].values)[0]
    about = items[at].name
    told = {field for item in items if item.name == about for field, _ in item.values}
    elsewhere = [field for item in items for field, _ in item.values if field not in told]
    absent = [field for field in FIELDS if field not in told]
    return about, rng.choice(elsewhere if elsewhere and rng.random() < 0.7 else absent)


def _items(rng: random.Random, part: Part, language: Language) -> list[_Item]:
    """At least one tells of a product. Two may tell of the same one, then of different fields."""
    told: dict[str, set[Field]] = {}
    items = []
    for number in range(rng.choice((1, 2, 2, 3, 3, _MOST))):
        if number and rng.random() < 0.1:
            items.append(_Item("", (), rng.choice(_FILLERS[language])))
            continue
        about = rng.choice(list(told)) if told and rng.random() < 0.25 else _named(rng, part, language)
        free = [field for field in FIELDS if field not in told.setdefault(about, set())]
        chosen = rng.sample(free, rng.choice((1, 1, 2, 3)))
        told[about].update(chosen)
        values = tuple((field, field.value(rng, part)) for field in chosen)
        items.append(_Item(about, values, _text(rng, language, about, values)))
    rng.shuffle(items)
    return items


def _text(rng: random.Random, language: Language, about: str, values: tuple[tuple[Field, str], ...]) -> str:
    between = " " if language == "en" else ""
    words = []
    for number, (field, value) in enumerate(values):
        form = rng.choice(_MORE[language] if number else _SENTENCES[language])
        words.append(form.format(name=about, field=field.label(language), value=value))
    if rng.random() < 0.2:
        words.append(between + rng.choice(_FILLERS[language]))
    text = "".join(words)
    return text[0].upper() + text[1:]


def _named(rng: random.Random, part: Part, language: Language) -> str:
    kind = rng.randrange(len(KINDS))
    return _product(language, kind, code(rng, part) if rng.random() < 0.4 else name(rng, part, language))


def _product(language: Language, kind: int, named: str) -> str:
    english, chinese = KINDS[kind]
    if language == "en":
        return f"the {english} {named}"
    return f"{chinese} {named}" if named.isascii() else f"{named}{chinese}"
