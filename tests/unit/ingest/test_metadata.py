"""The types of metadata fields are fixed by the first document that has the field."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from pipelines.core.manifest import Manifest
from pipelines.ingest.metadata import conflict, extend, known_types, type_name


def test_the_types_of_an_index_are_known_before_it_is_opened(tmp_path: Path) -> None:
    assert known_types(tmp_path) == {}
    Manifest({}, {}, {"year": "number"}).save(tmp_path)
    assert known_types(tmp_path) == {"year": "number"}


@pytest.mark.parametrize(
    ("value", "name"), [(True, "bool"), (1, "number"), (1.5, "number"), ("1", "str"), ("", "str")]
)
def test_a_value_has_one_of_three_types(value: object, name: str) -> None:
    assert type_name(value) == name  # type: ignore[arg-type]


def test_the_first_document_with_a_field_fixes_its_type() -> None:
    documents = [(0, {"year": 2020}), (1, {"year": "2021", "brand": "A"})]
    assert extend({}, documents) == {"year": "number", "brand": "str"}


def test_a_rebuild_keeps_the_types_of_the_index_but_where_all_values_are_of_others() -> None:
    documents = [(0, {"year": "n/a", "code": 7, "new": 1}), (1, {"year": 2020, "code": 8, "new": "x"})]
    replaced = {"year": "number", "code": "str", "elsewhere": "bool"}
    for order in permutations(documents):
        assert extend({}, order, replaced) == {"year": "number", "code": "number", "new": "number"}


def test_the_first_is_that_of_the_listing_in_whatever_order_the_workers_ended() -> None:
    documents = [(0, {"year": 2020}), (1, {"year": "2021", "brand": "A", "new": True}), (7, {"brand": 3})]
    for order in permutations(documents):
        assert list(extend({"kind": "str"}, order).items()) == [
            ("kind", "str"),
            ("year", "number"),
            ("brand", "str"),
            ("new", "bool"),
        ]


def test_a_type_that_the_index_knows_stays() -> None:
    known = {"year": "str"}
    assert extend(known, [(0, {"year": 2020})]) == {"year": "str"}
    assert known == {"year": "str"}


def test_whole_and_broken_numbers_do_not_conflict() -> None:
    assert conflict({"price": 9.5}, {"price": "number"}) == ""
    assert conflict({"price": 9}, {"price": "number"}) == ""


def test_true_is_no_number() -> None:
    assert conflict({"price": True}, {"price": "number"}) == (
        "price is a bool here (True) but a number in the index"
    )


def test_every_field_in_conflict_is_named() -> None:
    reason = conflict({"a": "x", "b": 1, "c": 1}, {"a": "number", "b": "str", "c": "number"})
    assert reason == (
        "a is a str here ('x') but a number in the index; b is a number here (1) but a str in the index"
    )
