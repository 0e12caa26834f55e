"""Questions with their right answers and boxes, read from a file. Knows nothing of answering or measuring.

One JSON object a line: `{"id", "query"?, "image"?, "filter"?, "language"?, "answers": [text, ...],
"answerable": true, "boxes": [{"image": "query" or a hit's id, "xyxy": [left, top, right, bottom]}, ...]}`.
`image` is a file in the folder of this one, or a data URI. `answers` are right each by itself; with
`answerable` false the right thing is to say that the evidence does not say. Boxes are in pixels of the
upright original.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import pydantic_core
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from pipelines.core import filters
from pipelines.core.errors import BadPart, UsageError
from pipelines.core.filters import Filter
from pipelines.core.lines import explained, lines
from pipelines.core.picture_files import clean, find_pictures, read_picture
from pipelines.core.prompts import language
from pipelines.core.retriever import Query, plan
from pipelines.core.types import is_part_id
from pipelines.evaluate.boxes import OnPicture
from pipelines.evaluate.digest import digest
from pipelines.evaluate.queries import NO_TEXT, Language

QUERY = "query"
"""The picture of a box that lies on the question's own."""


@dataclass(frozen=True, slots=True)
class JudgedQuestion:
    """A question and what is right. `where` is its file and line; `digest` as of a JudgedQuery."""

    id: str
    where: str
    text: str | None
    picture: Path | bytes | None
    filter: Filter | None
    language: str
    answers: tuple[str, ...]
    answerable: bool
    boxes: tuple[OnPicture, ...]
    digest: str = ""

    def image(self) -> bytes | None:
        """Raises UsageError when the picture has gone."""
        try:
            return None if self.picture is None else read_picture(self.picture)
        except BadPart as exc:
            raise UsageError(f"{self.where}: {exc}") from exc

    def query(self) -> Query:
        """The query with its picture read, as `mmrag ask` makes it. Raises as `image`."""
        return Query(self.text, self.image(), where=self.filter)


def _with_words(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


class _Box(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(min_length=1)
    xyxy: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        left, top, right, bottom = self.xyxy
        if not (left < right and top < bottom):
            raise ValueError("xyxy is left, top, right, bottom")
        if self.image != QUERY and not is_part_id(self.image):
            raise ValueError(f"image is {QUERY!r} or a hit's id, such as doc#img-0")
        return self


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    query: str | None = None
    image: str | None = None
    filter: str | None = None
    language: Language | None = None
    answers: tuple[Annotated[str, AfterValidator(_with_words)], ...] = ()
    answerable: bool = True
    boxes: tuple[_Box, ...] = ()

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.answerable and (self.answers or self.boxes):
            raise ValueError("answerable is false, so there are no answers and no boxes")
        if self.image is None and any(box.image == QUERY for box in self.boxes):
            raise ValueError(f"a box is on the picture of the {QUERY}, which has none")
        return self


def read_questions(data: Path, types: Mapping[str, str] | None) -> tuple[JudgedQuestion, ...]:
    """The questions in the order of the file. `types` are the index's metadata fields, for filters; None:
    they are not asked of an index. Raises UsageError, with file and line, for the first row that is wrong."""
    root = os.path.realpath(data.parent)
    questions: dict[str, JudgedQuestion] = {}
    for where, line in lines(data):
        try:
            row = _Row.model_validate(pydantic_core.from_json(line))
        except ValueError as exc:
            raise UsageError(f"{where}: {explained(exc)}") from exc
        if row.id in questions:
            raise UsageError(f"{where}: the id {row.id!r} stands in {questions[row.id].where} already")
        try:
            questions[row.id] = _judged(row, where, root, types)
        except (BadPart, UsageError) as exc:
            raise UsageError(f"{where}: {exc}") from exc
    if not questions:
        raise UsageError(f"{data}: holds no questions")
    return tuple(questions.values())


def _judged(row: _Row, where: str, root: str, types: Mapping[str, str] | None) -> JudgedQuestion:
    parsed = None if row.filter is None else filters.parse(row.filter)
    if parsed is not None and types is not None:
        filters.check(parsed, types)
    text = None if row.query is None else clean(row.query, "query")
    picture = None if row.image is None else find_pictures([row.image], root)[0]
    plan(Query(text, None if picture is None else b""))
    return JudgedQuestion(
        id=row.id,
        where=where,
        text=text,
        picture=picture,
        filter=parsed,
        language=row.language or (language(text) if text and text.strip() else NO_TEXT),
        answers=row.answers,
        answerable=row.answerable,
        boxes=tuple(OnPicture(box.image, box.xyxy) for box in row.boxes),
        digest=digest(row.model_dump(exclude={"id", "language"}, exclude_defaults=True)),
    )
