"""The questions that the demo has answered, what a right answer says, and what came. Knows nothing of HTTP.

Every figure asked for stands on a nameplate and in no text, but one that stands in a text and one that stands
nowhere. The answers were written down before any model was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.grounding import Box, iou
from pipelines.demo.nameplates import NAMEPLATES

WELL_PLACED = 0.5
"""The intersection over union of a box with the value's, from which on it counts as placed."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`expected` is in a right answer, and `document` is what it cites; both empty where there is no answer.

    `value` names the value of the document's nameplate that a box is to mark. `image` is relative to the
    corpus folder: the question's own picture, which then is what the answer is read from.
    """

    id: str
    shows: str
    text: str
    expected: str = ""
    document: str = ""
    value: str = ""
    image: str = ""

    def box(self) -> Box | None:
        """Of the value, in pixels of the nameplate."""
        plates = {plate.document_id: plate for plate in NAMEPLATES}
        return plates[self.document].drawn()[1][self.value] if self.value else None


ASKED = (
    Asked(
        "voltage", "English, from a picture", "What is the voltage of the pump LK-847?",
        "120 V", "plate-lk-847", "voltage",
    ),
    Asked(
        "speed", "Chinese, from a picture", "电机 HQ-362的转速是多少？",
        "1428 rpm", "plate-hq-362", "speed",
    ),
    Asked(
        "noise", "English, from a picture in cells", "Tell me the noise of the fan VQ-139.",
        "25 dB", "plate-vq-139", "noise",
    ),
    Asked(
        "capacity", "Chinese, from a picture", "请问水泵 TN-42的容量？",
        "85 L", "plate-tn-42", "capacity",
    ),
    Asked(
        "life", "English, from a text", "What is the life of the pump LK-847?",
        "5264 h", "plate-lk-847",
    ),
    Asked(
        "own-picture", "About the question's own picture", "What is the speed?",
        "2871 rpm", "plate-sa-870", "speed", image="queries/plate-photo.jpg",
    ),
    Asked("nowhere", "Nothing says it", "What is the weight of the fan VQ-139?"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AnswerRun:
    """A question, the object that `ask --json` prints for it, and the pictures with its boxes, as JPEGs."""

    question: Asked
    answer: Mapping[str, Any]
    elapsed_ms: float
    pictures: tuple[bytes, ...] = ()

    @property
    def right(self) -> bool:
        """Says what is expected and cites it (of the question's own picture nothing is cited), or refuses."""
        if not self.question.expected:
            return bool(self.answer["refused"])
        cited = {citation["hit_id"].partition("#")[0] for citation in self.answer["citations"]}
        # "1120 V" does not say 120 V.
        said = bool(re.search(rf"(?<![0-9.]){re.escape(self.question.expected)}", self.answer["answer"]))
        return said and (bool(self.question.image) or self.question.document in cited)

    @property
    def placed(self) -> bool | None:
        """Whether the first box marks the value, on the right picture; None where none is wanted."""
        if (wanted := self.question.box()) is None:
            return None
        documents = {hit["citation_id"]: hit["document_id"] for hit in self.answer["hits"]}
        shown = {"query": self.question.document} if self.question.image else documents
        return any(
            shown.get(box["image"]) == self.question.document
            and iou(tuple(box["xyxy"]), wanted) >= WELL_PLACED
            for box in self.answer["boxes"][:1]
        )


@dataclass(frozen=True, slots=True)
class AnswerTotals:
    questions: int
    right: int
    boxes: int
    placed: int


def answer_totals(runs: Sequence[AnswerRun]) -> AnswerTotals:
    wanted = [run.placed for run in runs if run.placed is not None]
    return AnswerTotals(len(runs), sum(run.right for run in runs), len(wanted), sum(wanted))
