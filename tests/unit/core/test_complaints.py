"""What is wrong with a row, as whoever wrote it reads it."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from pipelines.core.complaints import complaint


class Inner(BaseModel):
    corners: tuple[FiniteFloat, FiniteFloat]


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1)
    names: list[str] = []
    code: str = Field("ab", min_length=2)
    inner: tuple[Inner, ...] = ()
    grades: dict[str, float] = {}
    mode: Literal["auto", "text"] = "auto"
    flag: bool = True
    count: int = Field(1, ge=1)

    @field_validator("names")
    @classmethod
    def _are_different(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice")
        return names


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "wanted an object, in braces"),
        ({}, "id: is missing"),
        ({"id": ""}, "id: is empty"),
        ({"id": "a", "code": ""}, "code: wanted 2 characters at least"),
        ({"id": 7}, "id: wanted text, in quotes"),
        ({"id": "a", "idd": "b"}, "idd: there is no such field"),
        ({"id": "a", "names": "b"}, "names: wanted a list, in brackets"),
        ({"id": "a", "names": ["b", 3]}, "names.1: wanted text, in quotes"),
        ({"id": "a", "names": ["b", "b"]}, "names: a name stands twice"),
        ({"id": "a", "inner": {}}, "inner: wanted a list, in brackets"),
        ({"id": "a", "inner": ["b"]}, "inner.0: wanted an object, in braces"),
        ({"id": "a", "inner": [{"corners": [1]}]}, "inner.0.corners.1: is missing"),
        ({"id": "a", "inner": [{"corners": [1, 2, 3]}]}, "inner.0.corners: wanted 2 values at most, not 3"),
        ({"id": "a", "inner": [{"corners": [1, "b"]}]}, "inner.0.corners.1: wanted a number"),
        (
            {"id": "a", "inner": [{"corners": [1, float("inf")]}]},
            "inner.0.corners.1: wanted a finite number",
        ),
        ({"id": "a", "grades": ["b"]}, "grades: wanted an object, in braces"),
        ({"id": "a", "grades": {"b": []}}, "grades.b: wanted a number"),
        ({"id": "a", "mode": "b"}, "mode: wanted 'auto' or 'text'"),
        ({"id": "a", "flag": "b"}, "flag: wanted true or false"),
        ({"id": "a", "flag": {}}, "flag: wanted true or false"),
        ({"id": "a", "count": "b"}, "count: wanted a whole number"),
        ({"id": "a", "count": 1.5}, "count: wanted a whole number"),
        ({"id": "a", "count": []}, "count: wanted a whole number"),
        ({"id": "a", "count": 0}, "count: should be greater than or equal to 1"),
    ],
)
def test_a_problem_is_told_without_the_names_of_python(row: Any, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Row.model_validate(row)
    assert complaint(caught.value) == said


def test_what_is_no_json_says_where_it_ends() -> None:
    with pytest.raises(ValidationError) as caught:
        Row.model_validate_json("{")
    assert complaint(caught.value) == "no JSON (EOF while parsing an object at line 1 column 1)"
