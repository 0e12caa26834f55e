"""The file of `mmrag ask --batch`: a question a line. Knows nothing of who answers, nor of Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.core.characters import unfit
from pipelines.core.complaints import complaint
from pipelines.core.errors import UsageError
from pipelines.core.retriever import Mode

MAX_LINE_BYTES: Final = 2**20
_JUDGED = frozenset({"answers", "answerable", "boxes", "language"})
"""What a question for `mmrag evaluate` has besides: what is right is not shown to the model."""


class Asked(BaseModel):
    """A line of the file. `image` is relative to it and lies in its folder, or is a data URI."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str | int | None = None
    query: str | None = None
    image: str | None = None
    mode: Mode = "auto"
    k: int = 10
    filter: str | None = None

    def named(self, line: int) -> str:
        """Its id, or the number of its line."""
        return str(line if self.id is None else self.id)


def read_lines(questions: Path) -> list[tuple[int, str]]:
    """Those that are not blank, each with its number in the file, from 1. Raises UsageError for a file that
    cannot be read, or has none."""
    try:
        numbered = enumerate(questions.read_text("utf-8-sig").split("\n"), start=1)
        lines = [(number, line) for number, line in numbered if line.strip()]
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"--batch {questions}: {exc}") from exc
    if not lines:
        raise UsageError(f'--batch {questions}: holds no questions; a line is {{"query": "..."}}')
    return lines


def parse_line(text: str) -> Asked:
    """A line of the file. Raises UsageError."""
    if len(text) > MAX_LINE_BYTES:
        raise UsageError(f"the line is longer than {MAX_LINE_BYTES:,} characters")
    try:
        row = json.loads(text)
        known = {k: v for k, v in row.items() if k not in _JUDGED} if isinstance(row, dict) else row
        fault = unfit(json.dumps(known, ensure_ascii=False))
    except (ValueError, RecursionError) as exc:
        raise UsageError(f"the line is no JSON object: {exc}") from exc
    if fault:
        raise UsageError(f"the line {fault}")
    try:
        return Asked.model_validate(known)
    except ValidationError as exc:
        raise UsageError(complaint(exc)) from exc
