"""Ask the Answerer judged questions, one after another. Knows nothing of what is right."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipelines.core.answer import Question
from pipelines.core.errors import BadImage, UsageError
from pipelines.core.types import Answer, answer_dict
from pipelines.evaluate.given import Given, given
from pipelines.evaluate.questions import JudgedQuestion

Progress = Callable[[int, int], None]
Keep = Callable[[str, dict[str, Any]], None]


class Asked(Protocol):
    """What is asked of an Answerer."""

    async def answer(self, question: Question) -> Answer: ...


def ask_all(
    questions: Sequence[JudgedQuestion],
    answerer: Asked,
    keep: Keep = lambda name, answer: None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Given]:
    """By id. A question that is refused as wrong (its picture, its length) is a failed answer, but for the
    first: nothing is lost yet, and a wrong setting refuses every question. So this raises UsageError for that
    one, and StoreUnavailable and GeneratorUnavailable for any."""
    found: dict[str, Given] = {}
    with asyncio.Runner() as runner:
        for done, question in enumerate(questions):
            on_progress(done, len(questions))
            try:
                answer = runner.run(answerer.answer(Question(question.query())))
            except (BadImage, UsageError) as exc:
                if not done:
                    raise UsageError(f"{question.where}: {exc}") from exc
                found[question.id] = Given("", error=str(exc))
                keep(question.id, {"error": str(exc)})
            else:
                found[question.id] = given(answer)
                keep(question.id, answer_dict(answer))
    on_progress(len(questions), len(questions))
    return found


@contextmanager
def keeping(file: Path | None) -> Iterator[Keep]:
    """Writes answers as they come, JSONL, as `given.read_answers` reads them: into `FILE.part`, which becomes
    the file at the end, and stays where it does not come to one. Raises UsageError where it cannot."""
    if file is None:
        yield lambda name, answer: None
        return
    try:
        part = file.with_name(f"{file.name}.part")
        stream = part.open("w", encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"--keep {file}: {exc.strerror}") from exc
    with stream:

        def write(name: str, answer: dict[str, Any]) -> None:
            stream.write(json.dumps({"id": name, **answer}, ensure_ascii=False) + "\n")
            stream.flush()

        yield write
    part.replace(file)


def unmatched(
    asked: Sequence[JudgedQuestion], measured: Sequence[JudgedQuestion], answers: Mapping[str, Given]
) -> str:
    """How many saved answers are to no question that is asked, and how many that are measured have no answer;
    empty where all meet."""
    strange = len(answers.keys() - {question.id for question in asked})
    missing = sum(question.id not in answers for question in measured)
    if not strange and not missing:
        return ""
    return (
        f"answers to no question of the data, which are left out: {strange:,}; "
        f"questions without an answer, which count as failed: {missing:,}"
    )


def matched(questions: Sequence[JudgedQuestion], answers: Mapping[str, Given]) -> dict[str, Given]:
    """Saved answers of these questions; one that is not there is a failed answer. Raises UsageError where
    none is there."""
    if not any(question.id in answers for question in questions):
        raise UsageError("--answers: has an answer to none of these questions; the ids must be the same")
    return {
        question.id: answers.get(question.id, Given("", error="no answer was saved"))
        for question in questions
    }
