"""Queries with what answers them, read from files. Knows nothing of searching or measuring.

Three forms, one JSON object a line in the first two:

- ours: `{"id", "text"?, "image"?, "mode"?, "filter"?, "language"?, "relevant": {id: grade} or [id, ...]}`;
- M-BEIR's query files (huggingface.co/datasets/TIGER-Lab/M-BEIR): `{"qid", "query_txt", "query_img_path",
  "pos_cand_list": [did or {"did"}], ...}`; instructions are not prepended;
- a directory of BEIR's (github.com/beir-cellar/beir): `queries.jsonl` with `_id` and `text`, and
  `qrels/SPLIT.tsv` with a header and query, document and grade. Its `corpus.jsonl` is for ingestion and is
  not read here; queries that the split does not judge are not asked.

What is relevant is named by document, or by hit (`doc#img-0`); one query does not mix them. A passage that
belongs to pictures is found as these, so name the pictures. A grade of 0 or less is not relevant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import pydantic_core
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
)

from pipelines.core import filters
from pipelines.core.errors import BadPart, UsageError
from pipelines.core.filters import Filter
from pipelines.core.lines import explained, lines
from pipelines.core.picture_files import clean, find_pictures, read_picture
from pipelines.core.prompts import language
from pipelines.core.retriever import Mode, Query, plan
from pipelines.core.types import Hit, is_part_id
from pipelines.evaluate.digest import digest
from pipelines.evaluate.figures import OVERALL

MAX_GRADE = 1e6
"""Of larger ones nDCG's sums may be no numbers."""

NO_TEXT = "no text"
"""The language of a query that is a picture alone."""


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """A query and the grades, above 0, of what is relevant to it. `where` is its file and line; `digest`, of
    all that its line says but its language, knows a picture by its name. The ids are those of `tenant`."""

    id: str
    where: str
    text: str | None
    picture: Path | bytes | None
    mode: Mode
    filter: Filter | None
    language: str
    relevant: Mapping[str, float]
    digest: str = ""
    tenant: str = ""

    @property
    def by_hit(self) -> bool:
        """Whether `relevant` names hits; else it names documents."""
        return any(map(is_part_id, self.relevant))

    def name(self, hit: Hit) -> tuple[str, str]:
        """What is judged of the hit: it, or its document, of its tenant."""
        return hit.tenant, hit.id if self.by_hit else hit.document_id

    def grade(self, name: tuple[str, str]) -> float:
        """0 for what is not judged, as another tenant's."""
        tenant, judged = name
        return self.relevant.get(judged, 0.0) if tenant == self.tenant else 0.0

    def query(self, k: int) -> Query:
        """The query with its picture read. Raises UsageError when the picture has gone."""
        try:
            image = None if self.picture is None else read_picture(self.picture)
        except BadPart as exc:
            raise UsageError(f"{self.where}: {exc}") from exc
        return Query(self.text, image, self.mode, k, self.filter)


def _is_not_all(language: str) -> str:
    if language == OVERALL:
        raise ValueError(f"{OVERALL!r} names the figures of all")
    return language


Language = Annotated[str, Field(min_length=1), AfterValidator(_is_not_all)]
"""As a line names its own: a group of the report."""


def _graded(value: Any) -> Any:
    if isinstance(value, list) and _are_names(value):
        return dict.fromkeys(value, 1.0)
    if not isinstance(value, dict):
        raise ValueError("wanted a list of ids, or an object of ids with their grades")
    return value


def _bounded(grade: float) -> float:
    if grade > MAX_GRADE:
        raise ValueError(f"a grade is {MAX_GRADE:,.0f} at most")
    return grade


def _are_names(value: Sequence[Any]) -> bool:
    return all(isinstance(name, str) for name in value)


class Row(BaseModel):
    """A line of our own form. `language` groups the figures; without it, Chinese characters decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    text: str | None = None
    image: str | None = None
    mode: Mode = "auto"
    filter: str | None = None
    language: Language | None = None
    relevant: Annotated[dict[str, Annotated[FiniteFloat, AfterValidator(_bounded)]], BeforeValidator(_graded)]


class _Candidate(BaseModel):
    did: str


def _named(value: Any) -> Any:
    """A candidate that is an id alone."""
    return {"did": value} if isinstance(value, str) else value


class MbeirRow(BaseModel):
    """What is read of a line of M-BEIR."""

    qid: str = Field(min_length=1)
    query_txt: str | None = None
    query_img_path: str | None = None
    pos_cand_list: list[Annotated[_Candidate, BeforeValidator(_named)]]

    def as_row(self) -> Row:
        names = [one.did for one in self.pos_cand_list]
        return Row(
            id=self.qid,
            text=self.query_txt or None,
            image=self.query_img_path or None,
            relevant=dict.fromkeys(names, 1.0),
        )


class _BeirQuery(BaseModel):
    id: str = Field(alias="_id", min_length=1)
    text: str


def read_queries(
    data: Path, types: Mapping[str, str], split: str = "test", image_root: Path | None = None
) -> tuple[JudgedQuery, ...]:
    """The queries of a file, or of a split of a BEIR directory, in the order of the file.

    `types` are the index's metadata fields, for filters. Pictures lie in `image_root`, or else in the
    file's folder. Raises UsageError, with file and line, for the first row that is wrong.
    """
    rows = _beir(data, split) if data.is_dir() else _json_lines(data)
    root = os.path.realpath(image_root or (data if data.is_dir() else data.parent))
    queries: dict[str, JudgedQuery] = {}
    for where, row in rows:
        if row.id in queries:
            raise UsageError(f"{where}: the id {row.id!r} stands in {queries[row.id].where} already")
        try:
            queries[row.id] = _judged(row, where, root, types)
        except (BadPart, UsageError) as exc:
            raise UsageError(f"{where}: {exc}") from exc
    if not queries:
        raise UsageError(f"{data}: holds no queries")
    return tuple(queries.values())


def _judged(row: Row, where: str, root: str, types: Mapping[str, str]) -> JudgedQuery:
    parsed = None if row.filter is None else filters.parse(row.filter)
    if parsed is not None:
        filters.check(parsed, types)
    text = None if row.text is None else clean(row.text, "text")
    picture = None if row.image is None else find_pictures([row.image], root)[0]
    plan(Query(text, None if picture is None else b"", row.mode))
    if len({is_part_id(name) for name in row.relevant}) > 1:
        raise UsageError("'relevant' names documents and hits; name one or the other")
    has_text = bool(text and text.strip())
    relevant = {name: grade for name, grade in row.relevant.items() if grade > 0}
    return JudgedQuery(
        id=row.id,
        where=where,
        text=text,
        picture=picture,
        mode=row.mode,
        filter=parsed,
        language=row.language or (language(text or "") if has_text else NO_TEXT),
        relevant=relevant,
        digest=digest(row.text, row.image, row.mode, row.filter, relevant),
    )


def _json_lines(file: Path) -> Iterator[tuple[str, Row]]:
    for where, line in lines(file):
        try:
            row = _row(pydantic_core.from_json(line))
        except ValueError as exc:
            raise UsageError(f"{where}: {explained(exc)}") from exc
        yield where, row


def _row(value: Any) -> Row:
    if isinstance(value, dict) and "qid" in value:
        return MbeirRow.model_validate(value).as_row()
    return Row.model_validate(value)


def _beir(directory: Path, split: str) -> Iterator[tuple[str, Row]]:
    grades = _qrels(directory, split)
    places: dict[str, str] = {}
    for where, line in lines(directory / "queries.jsonl"):
        try:
            query = _BeirQuery.model_validate_json(line)
        except ValidationError as exc:
            raise UsageError(f"{where}: {explained(exc)}") from exc
        if query.id in places:
            raise UsageError(f"{where}: the id {query.id!r} stands in {places[query.id]} already")
        places[query.id] = where
        if query.id in grades:
            yield where, Row(id=query.id, text=query.text, relevant=grades.pop(query.id))
    if grades:
        unknown = next(iter(grades))
        raise UsageError(f"{directory}: split {split} judges {unknown!r}, which queries.jsonl does not have")


def _qrels(directory: Path, split: str) -> dict[str, dict[str, float]]:
    file = directory / "qrels" / f"{split}.tsv"
    splits = sorted(path.stem for path in directory.glob("qrels/*.tsv"))
    if split not in splits:
        raise UsageError(f"{file}: no such file; --split: {', '.join(splits) or 'there is no qrels/*.tsv'}")
    grades: dict[str, dict[str, float]] = {}
    for number, (where, line) in enumerate(lines(file)):
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != 3:
            raise UsageError(f"{where}: has {len(cells)} columns; wanted query, document and grade, by tabs")
        query, document, grade = cells
        if number == 0:
            if _number(grade) is not None:
                raise UsageError(f"{where}: wanted a header such as query-id, corpus-id, score")
        elif (value := _number(grade)) is None:
            raise UsageError(f"{where}: the grade {grade!r} is no number")
        elif value > MAX_GRADE:
            raise UsageError(f"{where}: a grade is {MAX_GRADE:,.0f} at most, and not {grade!r}")
        elif grades.setdefault(query, {}).setdefault(document, value) != value:
            raise UsageError(f"{where}: gives {document!r} another grade for {query!r} than an earlier line")
    return grades


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if isfinite(value) else None
