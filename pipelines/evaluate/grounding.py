"""Measure the boxes of answers against the reference's. Asks no index.

Of the questions with reference boxes: `iou`, `precision@iou0.5`, `recall@iou0.5` (`boxes.Overlap`). An answer
without a usable box has 0 in each, and is counted by what it is: `refused`, `failed`, `unparsable` (something
like a box that is none, or that points at nothing), or `no_box`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.core.errors import UsageError
from pipelines.evaluate.boxes import overlap
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import Group, groups
from pipelines.evaluate.generation import WORST
from pipelines.evaluate.given import Given
from pipelines.evaluate.questions import JudgedQuestion

Outcome = Literal["boxed", "no_box", "unparsable", "refused", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("boxed", "no_box", "unparsable", "refused", "failed")


@dataclass(frozen=True, slots=True)
class BoxFigures:
    id: str
    language: str
    metrics: Mapping[str, float]
    outcome: Outcome
    answer: str
    error: str
    degraded: tuple[str, ...]
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """`left_out` counts questions without reference boxes, `counts` answers by outcome; `worst`: ids, the
    worst first."""

    groups: Mapping[str, Group]
    left_out: int
    counts: Mapping[str, int]
    degraded: Mapping[str, int]
    worst: tuple[str, ...]
    per_query: tuple[BoxFigures, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def with_boxes(questions: Sequence[JudgedQuestion]) -> tuple[JudgedQuestion, ...]:
    """Those that are measured. Raises UsageError where there are none."""
    found = tuple(question for question in questions if question.boxes)
    if not found:
        raise UsageError("no question has boxes: there is nothing to measure")
    return found


def evaluate(
    questions: Sequence[JudgedQuestion], answers: Mapping[str, Given], config: EvaluateConfig
) -> Report:
    """`answers` has one for the id of each question with boxes. Raises UsageError as `with_boxes`."""
    boxed = with_boxes(questions)
    per_query = tuple(figures(question, answers[question.id]) for question in boxed)
    counts = Counter(one.outcome for one in per_query)
    by_iou = sorted(per_query, key=lambda one: one.metrics["iou"])
    return Report(
        groups=groups(per_query, config),
        left_out=len(questions) - len(boxed),
        counts={outcome: counts[outcome] for outcome in OUTCOMES},
        degraded=dict(Counter(message for one in per_query for message in one.degraded)),
        worst=tuple(one.id for one in by_iou if one.metrics["precision@iou0.5"] < 1)[:WORST],
        per_query=per_query,
    )


def figures(question: JudgedQuestion, given: Given) -> BoxFigures:
    """One answer's, to a question with boxes."""
    found = overlap(given.boxes, question.boxes, given.unusable)
    return BoxFigures(
        id=question.id,
        language=question.language,
        metrics={"iou": found.iou, "precision@iou0.5": found.precision, "recall@iou0.5": found.recall},
        outcome=_outcome(given),
        answer=given.text,
        error=given.error,
        degraded=given.degraded,
        digest=question.digest,
    )


def _outcome(given: Given) -> Outcome:
    if given.error:
        return "failed"
    if given.boxes:
        return "boxed"
    if given.refused:
        return "refused"
    return "unparsable" if given.unusable or "[[" in given.text else "no_box"
