"""Answers as they are measured, whoever gave them: the Answerer of this process, or a file.

A file is what `mmrag ask --batch` wrote (Parquet), or JSONL of what `mmrag ask --json` prints with the
question's `id` added. Of another system `{"id", "answer"}` is enough: what is left out is not there. Knows
nothing of measures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from pipelines.core.entailment import Piece
from pipelines.core.errors import UsageError
from pipelines.core.lines import explained, lines
from pipelines.core.prompts import NO_ANSWER
from pipelines.core.types import Answer, answer_dict, is_part_id
from pipelines.evaluate.boxes import OnPicture

_PARQUET = b"PAR1"
NOWHERE = ""
"""The picture of a box on evidence that the answer does not have."""


@dataclass(frozen=True, slots=True)
class Given:
    """An answer. `evidence` by the number it is cited by; `unusable` counts boxes that were taken out.
    `error` says why there is no answer, and is empty where there is one."""

    text: str
    refused: bool = False
    evidence: Mapping[int, Piece] = field(default_factory=dict)
    boxes: tuple[OnPicture, ...] = ()
    unusable: int = 0
    degraded: tuple[str, ...] = ()
    error: str = ""


class _Hit(BaseModel):
    id: str
    kind: str | None = None
    text: str = ""
    image_uri: str | None = None
    citation_id: int | None = Field(None, ge=0)


def _number_or_query(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    try:
        return read(value)
    except ValidationError as exc:
        raise ValueError("wanted the number of a hit, or 'query'") from exc


class _PlacedBox(BaseModel):
    image: Annotated[int | Literal["query"], WrapValidator(_number_or_query)]
    xyxy: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


def _named(value: Any) -> Any:
    """A hit that is an id alone."""
    return {"id": value} if isinstance(value, str) else value


def _empty(value: Any) -> Any:
    return () if value is None else value


class _Answer(BaseModel):
    """What is read of an answer; the rest is left."""

    model_config = ConfigDict(frozen=True)

    answer: str | None = None
    refused: bool | None = None
    boxes: Annotated[tuple[_PlacedBox, ...], BeforeValidator(_empty)] = ()
    hits: Annotated[tuple[Annotated[_Hit, BeforeValidator(_named)], ...], BeforeValidator(_empty)] = ()
    degraded: Annotated[tuple[str, ...], BeforeValidator(_empty)] = ()
    dropped: Annotated[
        dict[str, Annotated[int, Field(ge=0)]], BeforeValidator(lambda value: value or {})
    ] = {}
    error: str | None = None

    @field_validator("hits")
    @classmethod
    def _are_told_apart(cls, hits: tuple[_Hit, ...]) -> tuple[_Hit, ...]:
        for number, count in Counter(_numbers(hits)).items():
            if count > 1:
                raise ValueError(f"{count} of them have the number {number}")
        return hits


class _Row(_Answer):
    id: str = Field(min_length=1)


def given(answer: Answer) -> Given:
    """An answer of this process."""
    return _given(_Answer.model_validate(answer_dict(answer)))


def read_answers(file: Path) -> dict[str, Given]:
    """By the question's id. Raises UsageError for what is no such file, with the line that is wrong."""
    found: dict[str, Given] = {}
    for where, value in _parquet(file) if _is_parquet(file) else _json_lines(file):
        try:
            row = _Row.model_validate(value)
        except ValueError as exc:
            raise UsageError(f"--answers {where}: {explained(exc)}") from exc
        if row.answer is None and not row.error:
            raise UsageError(f"--answers {where}: has neither an answer nor an error")
        if row.id in found:
            raise UsageError(f"--answers {where}: a second answer to {row.id!r}")
        found[row.id] = _given(row)
    return found


def _given(row: _Answer) -> Given:
    if row.answer is None:
        return Given("", degraded=row.degraded, error=row.error or "")
    text = row.answer.strip()
    refused = text.startswith(tuple(NO_ANSWER.values())) if row.refused is None else row.refused
    evidence = {
        number: Piece(
            hit.id, hit.text, hit.kind == "image" if hit.kind else _is_picture(hit.id), hit.image_uri
        )
        for number, hit in zip(_numbers(row.hits), row.hits, strict=True)
    }
    return Given(
        text=text,
        refused=refused,
        evidence=evidence,
        boxes=tuple(OnPicture(_picture(box, evidence), box.xyxy) for box in row.boxes),
        unusable=row.dropped.get("boxes", 0),
        degraded=row.degraded,
        error=row.error or ("" if text else "the answer is empty"),
    )


def _numbers(hits: Sequence[_Hit]) -> list[int]:
    """By which each is cited: its own, or else its place."""
    return [place if hit.citation_id is None else hit.citation_id for place, hit in enumerate(hits, start=1)]


def _picture(box: _PlacedBox, evidence: Mapping[int, Piece]) -> str:
    if isinstance(box.image, str):
        return box.image
    return evidence[box.image].id if box.image in evidence else NOWHERE


def _is_picture(hit_id: str) -> bool:
    return is_part_id(hit_id) and "#img-" in hit_id


def _is_parquet(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(_PARQUET)) == _PARQUET
    except OSError as exc:
        raise UsageError(f"--answers {file}: {exc.strerror}") from exc


def _json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        for where, line in lines(file):
            try:
                yield where, pydantic_core.from_json(line)
            except ValueError as exc:
                raise UsageError(f"{where}: {explained(exc)}") from exc
    except UsageError as exc:
        raise UsageError(f"--answers {exc}") from exc


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file).to_pylist()
    except (pa.ArrowException, OSError) as exc:
        raise UsageError(f"--answers {file}: cannot be read as Parquet ({exc})") from exc
    for number, row in enumerate(rows, start=1):
        yield f"{file}:{number}", row
