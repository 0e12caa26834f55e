"""Reports of answers: which measures an answer has, how they are averaged, and boxes, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from judged_questions import answer, question

from pipelines.core.entailment import Lexical, NoVerdict, Piece
from pipelines.core.errors import UsageError
from pipelines.core.space import Space
from pipelines.core.stores import Vectors
from pipelines.evaluate import grounding
from pipelines.evaluate.baseline import Baseline, compare
from pipelines.evaluate.boxes import OnPicture
from pipelines.evaluate.config import EvaluateConfig, JudgeConfig
from pipelines.evaluate.generation import Report, evaluate, figures
from pipelines.evaluate.given import Given
from pipelines.evaluate.judge import Scores
from pipelines.evaluate.questions import JudgedQuestion
from pipelines.evaluate.semantic import Semantic

CONFIG = EvaluateConfig(resamples=200)
JUDGED = EvaluateConfig(resamples=200, judge=JudgeConfig(url="http://judge", model="m"))
WORDS = Lexical(0.75)
REFUSAL = Given("The evidence does not say.", refused=True)
FAILURE = Given("", error="too long")
UNANSWERABLE = {"answers": (), "answerable": False}


class Panel:
    """A judge with a verdict for each answer's text."""

    def __init__(self, **verdicts: Scores | NoVerdict) -> None:
        self._verdicts = verdicts
        self.problems: Mapping[NoVerdict, str] = {"refused": "too long"}

    def scores(self, question: JudgedQuestion, given: Given) -> Scores | NoVerdict:
        return self._verdicts[given.text.partition(" ")[0]]


def scores(accuracy: float, difference: int = 0) -> Scores:
    return Scores({"accuracy": accuracy, "completeness": 5.0, "verifiability": 4.0}, difference)


def report(*pairs: tuple[JudgedQuestion, Given]) -> Report:
    return evaluate([one for one, _ in pairs], {one.id: given for one, given in pairs}, WORDS, None, CONFIG)


def test_an_answers_figures() -> None:
    found = figures(question(), answer("It is 90 mm [1]. It is red [2].", "it is 90 mm", "blue"), WORDS, None)
    assert found.metrics == {
        "refusal_accuracy": 1,
        "answered@answerable": 1,
        "exact_match": 0,
        "token_f1": pytest.approx(2 * 2 / (7 + 2)),
        "rouge_l": pytest.approx(2 * 2 / (7 + 2)),
        "citation_recall": 1 / 2,
        "citation_precision": 1 / 2,
    }
    assert found.statements == {"supported": 1, "unsupported": 1}


@pytest.mark.parametrize(
    ("fields", "given", "expected"),
    [
        ({}, REFUSAL, {"refusal_accuracy": 0, "answered@answerable": 0}),
        (UNANSWERABLE, REFUSAL, {"refusal_accuracy": 1, "refused@unanswerable": 1}),
        ({}, FAILURE, {"refusal_accuracy": 0, "answered@answerable": 0}),
        (UNANSWERABLE, FAILURE, {"refusal_accuracy": 0, "refused@unanswerable": 0}),
    ],
)
def test_refusals_and_failures_claim_nothing_and_match_nothing(
    fields: dict[str, object], given: Given, expected: dict[str, float]
) -> None:
    found = figures(question(**fields), given, WORDS, None)
    wrong = {} if fields else {"exact_match": 0, "token_f1": 0, "rouge_l": 0}
    assert found.metrics == expected | wrong


def test_a_refusal_is_wrong_even_where_a_reference_has_its_words() -> None:
    found = figures(question(answers=("The evidence does not say.",)), REFUSAL, WORDS, None)
    assert found.metrics["exact_match"] == 0


def test_an_answer_to_what_has_none_is_still_checked_against_its_evidence() -> None:
    found = figures(question(**UNANSWERABLE), answer("It is red [1].", "it is red"), WORDS, None)
    assert found.metrics["refused@unanswerable"] == 0
    assert found.metrics["citation_recall"] == 1


def test_statements_on_pictures_are_counted_apart_and_never_as_right() -> None:
    seen = {1: Piece("doc#img-0", "", has_picture=True)}
    found = report(
        (question("q1"), answer("It is red [1].", evidence=seen)),
        (question("q2"), answer("It is red [1].", "it is blue")),
    )
    assert found.statements == {"unseen": 1, "unsupported": 1}
    assert found.groups["overall"].metrics["citation_recall"].mean == 0
    assert found.groups["overall"].metrics["citation_recall"].queries == 1


def test_groups_counts_and_the_worst() -> None:
    found = report(
        (question("right"), answer("90 mm")),
        (question("half"), answer("90 cm")),
        (question("zh", language="zh"), answer("no")),
        (question("refused", **UNANSWERABLE), REFUSAL),
        (question("failed"), replace(FAILURE, degraded=("lexical: down",))),
    )
    assert {name: group.queries for name, group in found.groups.items()} == {"overall": 5, "en": 4, "zh": 1}
    overall = found.groups["overall"].metrics
    assert overall["token_f1"].mean == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert overall["token_f1"].queries == 4
    assert overall["refusal_accuracy"].mean == pytest.approx(4 / 5)
    assert overall["exact_match"].low <= overall["exact_match"].mean <= overall["exact_match"].high
    assert found.counts == {"questions": 5, "unanswerable": 1, "refused": 1, "failed": 1}
    assert found.degraded == {"lexical: down": 1}
    assert found.worst == ("failed", "zh", "half", "right")  # right cites nothing


def test_a_judges_scores_and_what_became_of_its_verdicts() -> None:
    questions = [question(name) for name in ("a", "b", "c", "d", "e", "f")]
    texts = {"a": "good", "b": "fair", "c": "odd", "d": "blind", "f": "long"}
    answers = {name: answer(text) for name, text in texts.items()} | {"e": FAILURE}
    verdicts = {"odd": "unparsable", "blind": "unseen", "long": "refused"}
    panel = Panel(good=scores(5), fair=scores(2, difference=2), **verdicts)
    seen: list[tuple[int, int]] = []
    found = evaluate(questions, answers, WORDS, panel, JUDGED, lambda done, total: seen.append((done, total)))
    assert found.judge == {
        **{"scored": 2, "failed": 1, "unparsable": 1, "unseen": 1, "refused": 1, "unanswered": 0},
        **{"orders_differ": 1, "largest_difference": 2},
    }
    assert [one.judged for one in found.per_query] == [
        *("scored", "scored", "unparsable", "unseen", "failed", "refused")
    ]
    assert found.unscored == {"unseen": 1, "unparsable": 1, "refused": 1}
    assert found.problems == {"refused": "too long"}
    assert seen[-1] == (6, 6)
    assert found.instruments == {"citation_": "words, version 3, coverage 0.75", "judge_": "m, rubric 1"}


def test_a_failure_has_the_lowest_of_each_score() -> None:
    answers = {"a": answer("good"), "b": FAILURE, "c": FAILURE}
    found = evaluate([question(name) for name in answers], answers, WORDS, Panel(good=scores(5)), JUDGED)
    means = {name: one.mean for name, one in found.groups["overall"].metrics.items() if "judge" in name}
    assert means == {
        "judge_accuracy": pytest.approx((5 + 1 + 1) / 3),
        "judge_completeness": pytest.approx((5 + 1 + 1) / 3),
        "judge_verifiability": pytest.approx((4 + 1 + 1) / 3),
    }


def test_another_effort_is_another_judge() -> None:
    body = {"max_tokens": None, "reasoning_effort": "low"}
    config = EvaluateConfig(judge=JudgeConfig(url="http://j", model="m", extra_body=body))
    found = evaluate([question()], {"q1": answer("good")}, WORDS, Panel(good=scores(5)), config)
    assert found.instruments["judge_"] == 'm, rubric 1, {"max_tokens": null, "reasoning_effort": "low"}'


def test_a_fall_is_told_over_the_answers_that_have_the_measure_in_both_runs() -> None:
    pairs = [(question(f"q{n}"), answer("90 mm [1]", "90 mm")) for n in range(30)]
    before = report(*pairs)
    baseline = Baseline.model_validate(before.as_dict())
    now = report(*[(one, REFUSAL if n < 20 else given) for n, (one, given) in enumerate(pairs)])
    comparison = compare(now.per_query, baseline, CONFIG, now.instruments)
    assert set(comparison.fallen) == {
        *("refusal_accuracy", "answered@answerable", "exact_match", "token_f1", "rouge_l")
    }
    assert comparison.metrics["exact_match"].difference == pytest.approx(-2 / 3)
    assert comparison.metrics["citation_recall"].queries == 10
    assert compare(before.per_query, baseline, CONFIG, before.instruments).fallen == ()


def test_figures_of_different_judges_are_not_compared() -> None:
    before = report((question(), answer("90 mm [1]", "90 mm")))
    baseline = Baseline.model_validate(before.as_dict())
    other = before.instruments | {"citation_": "m, rubric 1"}
    comparison = compare(before.per_query, baseline, CONFIG, other)
    assert "exact_match" in comparison.metrics
    why = "by m, rubric 1, in the baseline by words, version 3, coverage 0.75"
    assert comparison.not_compared == {"citation_precision": why, "citation_recall": why}
    assert comparison.vanished == ()


# Grounding.

ON_QUERY = OnPicture("query", (0, 0, 10, 10))
HALF = OnPicture("query", (0, 0, 10, 5))


def test_boxes_of_answers() -> None:
    boxed = {
        "whole": Given("here", boxes=(ON_QUERY,)),
        "half": Given("here", boxes=(HALF,)),
        "none": Given("over there"),
        "dropped": Given("here", unusable=1),
        "words": Given("here [[1,2,3]]"),
        "refused": REFUSAL,
        "failed": FAILURE,
        "other": Given("here", boxes=(OnPicture("doc#img-0", (0, 0, 10, 10)),)),
    }
    questions = [question(name, boxes=(ON_QUERY,)) for name in boxed]
    found = grounding.evaluate([*questions, question("text")], boxed, CONFIG)
    overall = found.groups["overall"].metrics
    assert overall["iou"].mean == pytest.approx(1.5 / 8)
    assert overall["precision@iou0.5"].mean == 2 / 8
    assert overall["recall@iou0.5"].mean == 2 / 8
    assert found.counts == {"boxed": 3, "no_box": 1, "unparsable": 2, "refused": 1, "failed": 1}
    assert found.left_out == 1
    assert found.worst == ("none", "dropped", "words", "refused", "failed", "other")


def test_questions_without_boxes_are_nothing_to_measure() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        grounding.evaluate([question()], {"q1": Given("x")}, CONFIG)


# Meaning.


class Compass:
    """Turns "north", "east" and "north-east" into their directions."""

    space = Space(model="compass", revision="1", dim=2)
    floor = -1.0

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        directions = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "north-east": (0.5**0.5, 0.5**0.5)}
        return np.array([directions[text] for text in texts], dtype=np.float32)

    embed_queries = embed_passages


@pytest.mark.parametrize(
    ("said", "references", "similarity"),
    [
        ("north", ["east", "north"], 1.0),
        ("north-east", ["south", "east"], 0.5**0.5),
        ("north", ["south"], 0.0),
        ("north", ["east"], 0.0),
        (" ", ["north"], 0.0),
    ],
)
def test_similarity_is_the_cosine_with_the_nearest_reference(
    said: str, references: Sequence[str], similarity: float
) -> None:
    assert Semantic(Compass()).similarity(said, references) == pytest.approx(similarity)


def test_similarity_is_of_answers_with_references_and_a_refusal_has_none_of_it() -> None:
    asked = [
        question(answers=("north",)), question("q2", answers=("east",)), question("q3", **UNANSWERABLE)
    ]  # fmt: skip
    answers = {"q1": answer("north [1]", "north"), "q2": REFUSAL, "q3": answer("south", "x")}
    found = evaluate(asked, answers, WORDS, None, CONFIG, semantic=Semantic(Compass()))
    measured = found.groups["overall"].metrics["semantic_similarity"]
    assert (measured.mean, measured.queries) == (pytest.approx(0.5), 2)
    assert found.instruments["semantic_"] == "compass, 1"
