"""Measure answers: words against references, citations against evidence, refusals, and a judge's scores.

Asks no index. Which measures an answer has:

- `refusal_accuracy`, every one: 1 where it refuses exactly when the question has no answer. The same by kind:
  `answered@answerable`, `refused@unanswerable`;
- `exact_match`, `token_f1`, `rouge_l`, `semantic_similarity`: of questions with reference answers. A refusal
  and a failure are wrong;
- `citation_recall`, `citation_precision`: of answers that claim something, so not of refusals and failures,
  and where something could be decided;
- `judge_accuracy`, `judge_completeness`, `judge_verifiability`, 1 to 5: of answers that the judge scored. A
  failure has 1 in each, and is not asked about.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Protocol, get_args

from pipelines.core.entailment import Entailment, NoVerdict, Verdict
from pipelines.core.statements import statements, without_marks
from pipelines.core.support import support
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import Group, groups
from pipelines.evaluate.given import Given
from pipelines.evaluate.judge import ASPECTS, RUBRIC_VERSION, Scores
from pipelines.evaluate.overlap import exact_match, rouge_l, token_f1
from pipelines.evaluate.questions import JudgedQuestion
from pipelines.evaluate.semantic import Semantic

WORST = 10
WORDS_VERSION = 3
"""Of what counts as a statement, as a citation and as the same words: figures by another are not compared."""
_WORST_BY = ("refusal_accuracy", "token_f1", "judge_accuracy", "citation_recall")
_WORDS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
}
_OF_A_FAILURE = Scores(dict.fromkeys(ASPECTS, 1.0), difference=0)


class ScoringJudge(Protocol):
    @property
    def problems(self) -> Mapping[NoVerdict, str]: ...

    def scores(self, question: JudgedQuestion, given: Given) -> Scores | NoVerdict: ...


@dataclass(frozen=True, slots=True)
class AnswerFigures:
    """An answer's figures. `statements` by verdict on their citations; `judged`: `scored`, `failed` (the
    answer), why there is no verdict, or empty without a judge; `difference`: of the judge's two orders."""

    id: str
    language: str
    metrics: Mapping[str, float]
    answer: str
    refused: bool
    error: str
    degraded: tuple[str, ...]
    statements: Mapping[Verdict, int]
    judged: str = ""
    difference: int | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """`counts` of answers and of statements by verdict; `judge`: of answers by what became of their verdict,
    and `problems` the judge's words where it gave none; `worst`: ids, the worst first; `instruments`: what
    decided, by the first letters of its measures' names."""

    groups: Mapping[str, Group]
    counts: Mapping[str, int]
    statements: Mapping[Verdict, int]
    judge: Mapping[str, float]
    problems: Mapping[NoVerdict, str]
    degraded: Mapping[str, int]
    worst: tuple[str, ...]
    instruments: Mapping[str, str]
    per_query: tuple[AnswerFigures, ...]

    @property
    def unscored(self) -> dict[NoVerdict, int]:
        """The answers that the judge was to score and did not, by why."""
        return _without_verdict(self.judge)

    @property
    def undecided(self) -> dict[NoVerdict, int]:
        """The statements whose support nothing could decide, by why."""
        return _without_verdict(self.statements)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _without_verdict(counts: Mapping[Any, float]) -> dict[NoVerdict, int]:
    verdicts: tuple[NoVerdict, ...] = get_args(NoVerdict)
    return {one: int(counts[one]) for one in verdicts if counts.get(one)}


def evaluate(
    questions: Sequence[JudgedQuestion],
    answers: Mapping[str, Given],
    entails: Entailment,
    judge: ScoringJudge | None,
    config: EvaluateConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    semantic: Semantic | None = None,
) -> Report:
    """`answers` has one for each question's id. Without `semantic`, that similarity is not measured."""
    per_query: list[AnswerFigures] = []
    with ThreadPoolExecutor(config.judge.concurrency if config.judge else 1) as pool:
        measured = pool.map(lambda one: figures(one, answers[one.id], entails, judge, semantic), questions)
        try:
            for done, found in enumerate(measured, start=1):
                per_query.append(found)
                on_progress(done, len(questions))
        finally:
            pool.shutdown(cancel_futures=True)
    return Report(
        groups=groups(per_query, config),
        counts={
            "questions": len(questions),
            "unanswerable": sum(not question.answerable for question in questions),
            "refused": sum(one.refused for one in per_query),
            "failed": sum(bool(one.error) for one in per_query),
        },
        statements=dict(sum((Counter(one.statements) for one in per_query), Counter())),
        judge=_judged(per_query) if judge else {},
        problems=dict(judge.problems) if judge else {},
        degraded=dict(Counter(message for one in per_query for message in one.degraded)),
        worst=_worst(per_query),
        instruments=_instruments(config) | ({"semantic_": semantic.instrument} if semantic else {}),
        per_query=tuple(per_query),
    )


def figures(
    question: JudgedQuestion,
    given: Given,
    entails: Entailment,
    judge: ScoringJudge | None,
    semantic: Semantic | None = None,
) -> AnswerFigures:
    """One answer's."""
    failed = bool(given.error)
    is_right = 0.0 if failed else float(given.refused != question.answerable)
    by_kind = "answered@answerable" if question.answerable else "refused@unanswerable"
    found = {"refusal_accuracy": is_right, by_kind: is_right}
    if question.answers:
        said, wrong = without_marks(given.text), failed or given.refused
        measures = _WORDS | ({"semantic_similarity": semantic.similarity} if semantic else {})
        for name, measure in measures.items():
            found[name] = 0.0 if wrong else measure(said, question.answers)
    verdicts: Mapping[Verdict, int] = {}
    if not failed and not given.refused:
        cited = support(statements(given.text), given.evidence, entails)
        verdicts = cited.verdicts
        found |= cited.figures
    scores = None if judge is None else _OF_A_FAILURE if failed else judge.scores(question, given)
    if isinstance(scores, Scores):
        found |= {f"judge_{aspect}": scores.means[aspect] for aspect in ASPECTS}
    return AnswerFigures(
        id=question.id,
        language=question.language,
        metrics=found,
        answer=given.text,
        refused=given.refused,
        error=given.error,
        degraded=given.degraded,
        statements=verdicts,
        judged=_became(scores),
        difference=scores.difference if isinstance(scores, Scores) else None,
        digest=question.digest,
    )


def _became(scores: Scores | NoVerdict | None) -> str:
    if scores is _OF_A_FAILURE:
        return "failed"
    return "scored" if isinstance(scores, Scores) else scores or ""


def _judged(per_query: Sequence[AnswerFigures]) -> dict[str, float]:
    """How the judge did: answers by what became of them, and how often and far its two orders differ."""
    counts = Counter(one.judged for one in per_query if one.judged)
    differences = [one.difference for one in per_query if one.difference is not None]
    return {
        **{outcome: counts[outcome] for outcome in ("scored", "failed", *get_args(NoVerdict))},
        "orders_differ": sum(difference > 0 for difference in differences),
        "largest_difference": max(differences, default=0),
    }


def _worst(per_query: Sequence[AnswerFigures]) -> tuple[str, ...]:
    """Those that lack something, by what matters most first. A measure that one does not have is not held
    against it."""

    def standing(one: AnswerFigures) -> tuple[float, ...]:
        return tuple(one.metrics.get(name, float("inf")) for name in _WORST_BY)

    lacking = [one for one in per_query if any(one.metrics.get(name, 5) < _full(name) for name in _WORST_BY)]
    return tuple(one.id for one in sorted(lacking, key=standing)[:WORST])


def _full(measure: str) -> float:
    return 5.0 if measure.startswith("judge_") else 1.0


def _instruments(config: EvaluateConfig) -> dict[str, str]:
    """What is asked besides may be the judge's effort, so it is its own."""
    judge = f"{config.judge.model}, rubric {RUBRIC_VERSION}" if config.judge else ""
    if config.judge and config.judge.extra_body:
        judge += f", {json.dumps(dict(config.judge.extra_body), sort_keys=True)}"
    words = f"words, version {WORDS_VERSION}, coverage {config.coverage}"
    found = {"citation_": judge if config.entailment == "judge" else words}
    return found | ({"judge_": judge} if judge else {})
