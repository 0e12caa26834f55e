"""Questions over numbered evidence, with answers that cite it, and some that it does not answer.

The words around evidence and question are `core.prompts`', those of serving. Names and numbers of the test
are never trained on (`split.py`). Knows nothing of files or drawing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.tiny_llava.fields import FIELDS, KINDS, READ, Field, code, name, stated
from benchmarks.tiny_llava.prose import prose
from benchmarks.tiny_llava.sheets import Drawn
from benchmarks.tiny_llava.split import Asked, Language, Part, Phrases
from pipelines.core.grounding import format_boxes
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
_CAPTIONS = {
    "en": ("Sheet of {name}", "Nameplate of {name}", "Label of {name}", "Photo of {name}", "{name}"),
    "zh": ("{name}的图", "{name}的铭牌", "{name}铭牌", "{name}的标签", "{name}"),
}
_MOST = 4
_OF_NO_PRODUCT = 0.25  # of the questions without an answer; the others are harder to tell


@dataclass(frozen=True, slots=True)
class _Item:
    """One piece of evidence: `values` of some fields of a product, or of none. `sheet`: its picture."""

    name: str
    values: tuple[tuple[Field, str], ...]
    text: str
    sheet: Drawn | None = None


def asked(
    rng: random.Random, part: Part, language: Language, answerable: Sequence[bool] = (True,)
) -> list[Asked]:
    """One to four texts and a question for each of `answerable`, the first with the evidence.

    The answer is "The FIELD of NAME is VALUE [n]", or NO_ANSWER: then the question is of a product that no
    text names, or of a field that only other products have.
    """
    items = _items(rng, part, language)
    told = [number for number, item in enumerate(items) if item.values]
    return _asked_of(told, items, rng, part, language, answerable)


def asked_of_sheets(
    shown: Sequence[Drawn],
    rng: random.Random,
    part: Part,
    language: Language,
    answerable: Sequence[bool] = (True,),
) -> list[Asked]:
    """The same where one or two pieces of evidence are pictures of sheets, in the order given, beside up to
    two texts, and they are asked about. After its citation an answer has a box, in the pixels of evidence n's
    picture.
    """
    pictured = [_pictured(rng, language, drawn) for drawn in shown]
    names = {item.name for item in pictured}
    items = [item for item in _items(rng, part, language) if item.name not in names][: rng.choice((0, 1, 2))]
    for number, item in enumerate(pictured):
        after = items.index(pictured[number - 1]) + 1 if number else 0
        items.insert(rng.randint(after, len(items)), item)
    told = [number for number, item in enumerate(items) if item.sheet]
    return _asked_of(told, items, rng, part, language, answerable)


def asked_with_sheet(
    drawn: Drawn, rng: random.Random, part: Part, language: Language, answerable: Sequence[bool] = (True,)
) -> list[Asked]:
    """The questions' own picture is a sheet. Either it holds the answer, "The FIELD is VALUE BOX", or a text
    about its product does, "The FIELD is VALUE [n]"; the questions do not name the product.
    """
    sheet = drawn.sheet
    about = _product(language, sheet.kind, sheet.code)
    items = [item for item in _items(rng, part, language) if item.name != about][: _MOST - 1]
    on_sheet = {field for field, _ in sheet.rows}
    fields = rng.sample([field for field in FIELDS if field not in on_sheet], rng.choice((0, 1, 2)))
    values = tuple((field, field.value(rng, part)) for field in fields)
    at = rng.randint(0, len(items))
    if values:
        items.insert(at, _Item(about, values, _text(rng, language, about, values)))
    told = on_sheet | {field for item in items if item.name == about for field, _ in item.values}
    made: list[Asked] = []
    for held in answerable:
        if not held:
            field, answer = rng.choice([field for field in FIELDS if field not in told]), NO_ANSWER[language]
        elif values and rng.random() < 0.6:
            field, value = rng.choice(values)
            answer = f"{stated(field, value, language)} [{at + 1}]"
        else:
            field, value = rng.choice(sheet.rows)
            answer = f"{stated(field, value, language)} {format_boxes([drawn.boxes[field.key]])}"
        question = rng.choice(READ[language].of(part)).format(field=field.label(language))
        if not made:
            prompt = evidence_prompt(question, [item.text for item in items], query_picture=True)
            question = prompt.text
        made.append(Asked(question, answer, field.key))
    return made


def _asked_of(
    told: Sequence[int],
    items: list[_Item],
    rng: random.Random,
    part: Part,
    language: Language,
    answerable: Sequence[bool],
) -> list[Asked]:
    """Questions about the items at `told`, none twice as long as there are others."""
    every = [(at, field, value) for at in told for field, value in items[at].values]
    rng.shuffle(every)
    pictures = [number for number, item in enumerate(items, start=1) if item.sheet]
    made: list[Asked] = []
    for number, held in enumerate(answerable):
        at, field, value = every[number % len(every)]
        about = items[at].name
        answer = f"{stated(field, value, language, about)} [{at + 1}]"
        if drawn := items[at].sheet:
            answer += f" {format_boxes([drawn.boxes[field.key]])}"
        if not held:
            about, field = _unanswered(rng, part, language, items, at)
            answer = NO_ANSWER[language]
        question = rng.choice(ASK[language].of(part)).format(field=field.label(language), name=about)
        if not made:
            question = evidence_prompt(question, [item.text for item in items], pictures).text
        made.append(Asked(question, answer, field.key))
    return made


def _pictured(rng: random.Random, language: Language, drawn: Drawn) -> _Item:
    """A sheet as retrieval gives it: with a caption, with text about other things, or with neither."""
    about = _product(language, drawn.sheet.kind, drawn.sheet.code)
    text = rng.choice(_CAPTIONS[language]).format(name=about)
    how = rng.random()
    if how < 0.15:
        text = ""
    elif how < 0.4:
        text += (". " if language == "en" else "。") + prose(rng, language)
    return _Item(about, drawn.sheet.rows, text, drawn)


def _unanswered(
    rng: random.Random, part: Part, language: Language, items: list[_Item], at: int
) -> tuple[str, Field]:
    known = {item.name for item in items}
    if rng.random() < _OF_NO_PRODUCT:
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
        if number and (what := rng.random()) < 0.25:
            filler = rng.choice(_FILLERS[language]) if what < 0.08 else prose(rng, language)
            items.append(_Item("", (), filler))
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
    if (more := rng.random()) < 0.3:
        words.append(between + (rng.choice(_FILLERS[language]) if more < 0.15 else prose(rng, language)))
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
