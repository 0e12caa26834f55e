"""Questions and answers as the tests of measuring answers make them."""

from __future__ import annotations

from typing import Any

from pipelines.core.entailment import Piece
from pipelines.evaluate.given import Given
from pipelines.evaluate.questions import JudgedQuestion


def question(name: str = "q1", text: str | None = "How wide?", **fields: Any) -> JudgedQuestion:
    made: dict[str, Any] = {
        "where": f"q.jsonl:{name}",
        "picture": None,
        "filter": None,
        "language": "en",
        "answers": ("90 mm",),
        "answerable": True,
        "boxes": (),
    }
    return JudgedQuestion(id=name, text=text, **(made | fields))


def answer(text: str, *texts: str, **fields: Any) -> Given:
    """Its evidence is of these texts, numbered from 1."""
    evidence = {n: Piece(f"doc#txt-{n}", words) for n, words in enumerate(texts, start=1)}
    return Given(text, **({"evidence": evidence} | fields))
