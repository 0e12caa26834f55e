"""The example nameplates show what no text says, and nothing that tiny-llava was trained on."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.tiny_llava.fields import FIELDS, KINDS
from benchmarks.tiny_llava.sheets import TRAINED_LAYOUTS
from benchmarks.tiny_llava.split import part_of
from pipelines.core.grounding import in_bounds
from pipelines.demo.nameplates import NAMEPLATES

plates = pytest.mark.parametrize("nameplate", NAMEPLATES, ids=lambda nameplate: nameplate.code)


@plates
def test_no_text_says_what_the_plate_shows(nameplate) -> None:
    said = " ".join(one.text + one.caption for one in NAMEPLATES)
    for _, value in nameplate.values:
        assert value not in said
        assert not re.search(rf"(?<![\d-]){value.split()[0]}(?!\d)", said)


@plates
def test_codes_and_numbers_are_held_out_from_training(nameplate) -> None:
    assert part_of("code", nameplate.code) == "test"
    fields = {field.key: field for field in FIELDS}
    for key, value in nameplate.values:
        number, unit = value.split()
        assert part_of(key, number) == "test"
        assert unit == fields[key].unit
    for row in nameplate.plate.rows:
        field = fields[row.key]
        assert row.label == (field.zh if nameplate.chinese else field.en.capitalize())


@plates
def test_a_plate_is_of_a_kind_and_layout_that_the_model_knows(nameplate) -> None:
    assert nameplate.layout in TRAINED_LAYOUTS
    names = [english.capitalize() if not nameplate.chinese else chinese for english, chinese in KINDS]
    assert nameplate.kind in names
    assert KINDS[names.index(nameplate.kind)][0] == nameplate.form


@plates
def test_every_value_is_inside_the_picture(nameplate) -> None:
    image, boxes = nameplate.drawn()
    assert np.array_equal(np.array(image), np.array(nameplate.draw()))
    for key, _ in nameplate.values:
        assert in_bounds(boxes[key], *image.size)
