"""What one question brought back, and how the whole list did. Pure; knows nothing of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pipelines.demo.questions import Question

SHOWN = 5
"""A question counts as found when an expected document is among this many hits."""


@dataclass(frozen=True, slots=True)
class QueryRun:
    """A question, and the object that `search --json` prints for it."""

    question: Question
    result: Mapping[str, Any]
    elapsed_ms: float

    @property
    def hits(self) -> Sequence[Mapping[str, Any]]:
        """The hits that count, best first."""
        hits: Sequence[Mapping[str, Any]] = self.result["hits"]
        return hits[:SHOWN]

    @property
    def degraded(self) -> Sequence[str]:
        degraded: Sequence[str] = self.result["degraded"]
        return degraded

    @property
    def rank(self) -> int | None:
        """Where the first expected document stands, from 1; None below the first `SHOWN` hits."""
        return next((n for n, hit in enumerate(self.hits, 1) if self.expects(hit)), None)

    def expects(self, hit: Mapping[str, Any]) -> bool:
        return hit["document_id"] in self.question.expected


@dataclass(frozen=True, slots=True)
class IngestSummary:
    documents: int
    images: int
    chunks: int
    rejected: int
    seconds: float

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """`found`: an expected document among the first `SHOWN`; `first`: at the very top."""

    questions: int
    found: int
    first: int
    median_ms: float
    degraded: int


def totals(runs: Sequence[QueryRun]) -> Totals:
    return Totals(
        questions=len(runs),
        found=sum(run.rank is not None for run in runs),
        first=sum(run.rank == 1 for run in runs),
        median_ms=median(run.elapsed_ms for run in runs) if runs else 0.0,
        degraded=sum(bool(run.degraded) for run in runs),
    )
