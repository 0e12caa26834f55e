"""Random spec sheets, six layouts to train on and three that are only tested. Knows nothing of questions."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from benchmarks.tiny_llava.fields import FIELDS, KINDS, Field, code
from benchmarks.tiny_llava.split import Language, Part
from pipelines.demo import plates
from pipelines.demo.plates import Box

TRAINED_LAYOUTS = ("table", "list", "top", "cells", "dark", "centred")
NEW_LAYOUTS = ("flipped", "under", "middle")


@dataclass(frozen=True, slots=True)
class Sheet:
    """`rows`: a field and its value as written. `kind` is a place in KINDS."""

    kind: int
    code: str
    language: Language
    rows: tuple[tuple[Field, str], ...]

    @property
    def title(self) -> str:
        english, chinese = KINDS[self.kind]
        return f"{english.capitalize() if self.language == 'en' else chinese} {self.code}"

    @property
    def plate(self) -> plates.Plate:
        rows = tuple(plates.Row(field.key, self._label(field), value) for field, value in self.rows)
        return plates.Plate(self.title, KINDS[self.kind][0], rows, self.language == "zh")

    def _label(self, field: Field) -> str:
        return field.en.capitalize() if self.language == "en" else field.zh


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sheet's picture; in its pixels the boxes of `drawing`, `title` and each field's value, by its key."""

    sheet: Sheet
    image: Image.Image
    boxes: dict[str, Box]


def random_sheet(rng: random.Random, part: Part, language: Language) -> Sheet:
    chosen = rng.sample(FIELDS, rng.choice((3, 4, 4)))
    rows = tuple((field, field.value(rng, part)) for field in chosen)
    return Sheet(rng.randrange(len(KINDS)), code(rng, part), language, rows)


def draw(sheet: Sheet, layout: str, rng: random.Random) -> Drawn:
    """Raises KeyError for a layout that there is not."""
    return Drawn(sheet, *plates.draw(sheet.plate, layout, rng))
