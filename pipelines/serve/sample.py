"""How good one served answer is, as far as that shows without a reference. Pure: knows no request.

The figures of citations are those of `mmrag evaluate generation` with its judge that compares words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pipelines.core.entailment import Entailment, Verdict, pieces
from pipelines.core.statements import statements
from pipelines.core.support import support
from pipelines.core.types import Answer

COSINES: Final = ("image_to_image", "text_to_image", "text")
"""The branches whose own score is a cosine, so that it means the same for every question."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Of an answer. `figures`: citation_recall and citation_precision, where something could be decided, so
    none of a refusal; `statements`: how many by verdict; `evidence`: the ids of its hits; `best_cosine`: of
    each branch that compares vectors and found some of them, the highest."""

    refused: bool
    figures: Mapping[str, float]
    statements: Mapping[Verdict, int]
    dropped: Mapping[str, int]
    evidence: tuple[str, ...]
    best_cosine: Mapping[str, float]
    degraded: tuple[str, ...]
    total_ms: float | None


def sample(answer: Answer, entails: Entailment) -> Sample:
    claims = () if answer.refused else statements(answer.answer)
    cited = support(claims, pieces(answer.hits), entails)
    found = {branch: [h.scores[branch] for h in answer.hits if branch in h.scores] for branch in COSINES}
    return Sample(
        refused=answer.refused,
        figures=cited.figures,
        statements=cited.verdicts,
        dropped=dict(answer.dropped),
        evidence=tuple(hit.id for hit in answer.hits),
        best_cosine={branch: max(scores) for branch, scores in found.items() if scores},
        degraded=tuple(part.partition(":")[0] for part in answer.degraded),
        total_ms=answer.timings_ms.get("total"),
    )
