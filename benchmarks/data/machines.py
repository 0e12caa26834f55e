"""Documents and questions for benchmarks/modalities.py: where an answer stands is known by construction.

Numbers, codes, scenes and phrasings are of the part that tiny-llava was never trained on; the layouts of the
plates are those that it knows. Each machine's facts stand in one place alone, by the question's kind:

- `text`: in sentences;
- `plate`: on a drawn nameplate, whose caption names the machine;
- `scene`: in a picture without words: the colour of a shape;
- `which`: a text says which machine is meant ("the standby pump of hall 3 is the pump LK-847"), and only the
  plate of that one, a document of its own, tells the value;
- `photo`: the question brings a photograph of the plate and does not name the machine, and only a text tells
  the value;
- `none`: nowhere. Half of these machines have a text, half a plate, and other facts in it.

Knows nothing of indexes, models or measures.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.tiny_llava import shapes, sheets
from benchmarks.tiny_llava.evidence import ASK
from benchmarks.tiny_llava.fields import FIELDS, KINDS, READ, Field, code, stated
from benchmarks.tiny_llava.sheets import Sheet
from benchmarks.tiny_llava.split import Language, generator
from pipelines.demo.paper import Shot, photograph

LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Page:
    """A document of the corpus: text, or a PNG picture with its caption, or both."""

    id: str
    text: str = ""
    caption: str = ""
    picture: bytes = b""


@dataclass(frozen=True, slots=True)
class Asked:
    """`answers`: each is right; none where nothing says it. `needed`: the documents that say it together.
    `picture`: the question's own, a JPEG."""

    id: str
    kind: str
    language: Language
    text: str
    answers: tuple[str, ...]
    needed: frozenset[str]
    picture: bytes = b""


@dataclass(frozen=True, slots=True)
class Made:
    """What one question adds to the corpus, and the question."""

    pages: tuple[Page, ...]
    asked: Asked


@dataclass(frozen=True, slots=True)
class Draw:
    """What a question begins with: a random stream, a new machine and which of its facts is asked for.
    `number` is the question's place among those of its kind and language."""

    id: str
    number: int
    language: Language
    rng: random.Random
    sheet: Sheet
    row: tuple[Field, str]

    @property
    def name(self) -> str:
        return _product(self.sheet)

    @property
    def field(self) -> Field:
        return self.row[0]

    @property
    def value(self) -> str:
        return self.row[1]

    def plate(self) -> bytes:
        return self.plate_of(self.sheet)

    def plate_of(self, sheet: Sheet) -> bytes:
        return _png(sheets.draw(sheet, self.rng.choice(sheets.TRAINED_LAYOUTS), self.rng).image)

    def caption(self) -> str:
        return f"Nameplate of {self.name}" if self.language == "en" else f"{self.name}的铭牌"

    def asked(self, field: Field, about: str) -> str:
        return self.rng.choice(ASK[self.language].test).format(field=field.label(self.language), name=about)

    def answers(self, *about: str) -> tuple[str, ...]:
        """The value alone, and the sentences that say it of these names."""
        said = (stated(self.field, self.value, self.language, name) for name in ("", *about))
        return (self.value, *said)


def _text(draw: Draw) -> Made:
    pages = (Page(draw.id, text=_sentences(draw.sheet)),)
    question = draw.asked(draw.field, draw.name)
    return _made(draw, pages, question, draw.answers(draw.name))


def _plate(draw: Draw) -> Made:
    pages = (Page(draw.id, caption=draw.caption(), picture=draw.plate()),)
    question = draw.asked(draw.field, draw.name)
    return _made(draw, pages, question, draw.answers(draw.name))


def _scene(draw: Draw) -> Made:
    """Of a shape that is there once."""
    in_chinese = draw.language == "zh"
    single: list[shapes.Placed] = []
    while not single:
        image, placed = shapes.scene(draw.rng, "test")
        single = [one for one in placed if [other.shape for other in placed].count(one.shape) == 1]
    chosen = draw.rng.choice(single)
    shape, colour = shapes.SHAPES[chosen.shape][in_chinese], shapes.COLOURS[chosen.colour][in_chinese]
    name = f"图形 {draw.sheet.code}" if in_chinese else f"drawing {draw.sheet.code}"
    question = (
        f"请问{name}的{shape}是什么颜色？" if in_chinese else f"What is the color of the {shape} of {name}?"
    )
    pages = (Page(draw.id, caption=name[0].upper() + name[1:], picture=_png(image)),)
    return _made(draw, pages, question, (colour,))


def _which(draw: Draw) -> Made:
    kind = KINDS[draw.sheet.kind][draw.language == "zh"]
    hall = draw.number + 1
    if draw.language == "en":
        role = f"the standby {kind} of hall {hall}"
        text = f"The standby {kind} of hall {hall} is {draw.name}."
    else:
        role = f"{hall}号车间的备用{kind}"
        text = f"{role}是{draw.name}。"
    plate = Page(f"{draw.id}-plate", caption=draw.caption(), picture=draw.plate())
    question = draw.asked(draw.field, role)
    return _made(draw, (Page(draw.id, text=text), plate), question, draw.answers(role, draw.name))


def _photo(draw: Draw) -> Made:
    told = replace(draw.sheet, rows=(draw.row,))
    others = tuple(row for row in draw.sheet.rows if row != draw.row)
    picture = draw.plate_of(replace(draw.sheet, rows=others))
    page = Page(draw.id, text=_sentences(told), caption=draw.caption(), picture=picture)
    question = draw.rng.choice(READ[draw.language].test).format(field=draw.field.label(draw.language))
    return _made(draw, (page,), question, draw.answers(draw.name), _photograph(picture, draw.rng))


def _none(draw: Draw) -> Made:
    if draw.number % 2:
        page = Page(draw.id, text=_sentences(draw.sheet))
    else:
        page = Page(draw.id, caption=draw.caption(), picture=draw.plate())
    told = {field for field, _ in draw.sheet.rows}
    field = draw.rng.choice([field for field in FIELDS if field not in told])
    return _made(draw, (page,), draw.asked(field, draw.name), ())


_KINDS: dict[str, Callable[[Draw], Made]] = {
    "text": _text,
    "plate": _plate,
    "scene": _scene,
    "which": _which,
    "photo": _photo,
    "none": _none,
}
KINDS_OF_QUESTION = tuple(_KINDS)


def build(many: int, seed: int = 0) -> tuple[Made, ...]:
    """So many questions of each kind and language, always the same of one seed."""
    taken: set[str] = set()
    made = []
    for kind, make in _KINDS.items():
        for language in LANGUAGES:
            for number in range(many):
                name = f"{kind}-{language}-{number}"
                rng = generator("modalities", seed, name)
                sheet = _new_machine(rng, language, taken)
                made.append(make(Draw(name, number, language, rng, sheet, rng.choice(sheet.rows))))
    return tuple(made)


def write(made: Sequence[Made], folder: Path) -> None:
    """`texts.jsonl`: what a system that knows no pictures can read; `whole.jsonl`: all of it, with pictures
    and captions; `questions.jsonl`, as `mmrag evaluate generation` reads it."""
    (folder / "pictures").mkdir(parents=True)
    pages = [page for one in made for page in one.pages]
    for page in pages:
        if page.picture:
            (folder / _picture_of(page.id)).write_bytes(page.picture)
    for one in made:
        if one.asked.picture:
            (folder / _photograph_of(one.asked.id)).write_bytes(one.asked.picture)
    _write_lines(folder / "texts.jsonl", ({"id": page.id, "text": page.text} for page in pages if page.text))
    _write_lines(folder / "whole.jsonl", (_row(page) for page in pages))
    _write_lines(folder / "questions.jsonl", (_question(one.asked) for one in made))


def _made(
    draw: Draw, pages: tuple[Page, ...], question: str, answers: tuple[str, ...], picture: bytes = b""
) -> Made:
    kind, _, _ = draw.id.partition("-")
    needed = frozenset(page.id for page in pages) if answers else frozenset()
    return Made(pages, Asked(draw.id, kind, draw.language, question, answers, needed, picture))


def _new_machine(rng: random.Random, language: Language, taken: set[str]) -> Sheet:
    """With three facts."""
    while (sheet := sheets.random_sheet(rng, "test", language)).code in taken:
        sheet = replace(sheet, code=code(rng, "test"))
    taken.add(sheet.code)
    return replace(sheet, rows=sheet.rows[:3])


def _product(sheet: Sheet) -> str:
    """As sentences name it: "the pump LK-847"."""
    english, chinese = KINDS[sheet.kind]
    return f"the {english} {sheet.code}" if sheet.language == "en" else f"{chinese} {sheet.code}"


def _sentences(sheet: Sheet) -> str:
    (first, value), *others = sheet.rows
    name = _product(sheet)
    if sheet.language == "en":
        more = [f" Its {field.en} is {its}." for field, its in others]
        return f"The {first.en} of {name} is {value}." + "".join(more)
    return f"{name}的{first.zh}是{value}。" + "".join(f"它的{field.zh}是{its}。" for field, its in others)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _photograph(png: bytes, rng: random.Random) -> bytes:
    """As a question would bring it: at an angle, on a desk, unevenly lit."""
    out = io.BytesIO()
    plate = Image.open(io.BytesIO(png)).convert("RGB")
    photograph(plate, np.random.default_rng(rng.getrandbits(64)), Shot()).save(out, "JPEG", quality=80)
    return out.getvalue()


def _picture_of(page_id: str) -> str:
    return f"pictures/{page_id}.png"


def _photograph_of(question_id: str) -> str:
    return f"pictures/asked-{question_id}.jpg"


def _row(page: Page) -> dict[str, Any]:
    row = {key: value for key, value in asdict(page).items() if value and key != "picture"}
    return row | ({"image": _picture_of(page.id)} if page.picture else {})


def _question(asked: Asked) -> dict[str, Any]:
    row = {
        "id": asked.id,
        "query": asked.text,
        "language": asked.language,
        "answers": asked.answers,
        "answerable": bool(asked.answers),
    }
    return row | ({"image": _photograph_of(asked.id)} if asked.picture else {})


def _write_lines(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
