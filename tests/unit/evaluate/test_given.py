"""Answers from the Answerer and from files, in one form; asking, keeping and matching them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from judged_questions import question

from pipelines.core.answer import Question
from pipelines.core.entailment import Piece
from pipelines.core.errors import BadImage, GeneratorUnavailable, UsageError
from pipelines.core.types import Answer, Citation, Hit, PlacedBox
from pipelines.evaluate.asking import ask_all, keeping, matched, unmatched
from pipelines.evaluate.boxes import OnPicture
from pipelines.evaluate.given import Given, given, read_answers

HITS = (
    Hit("doc#img-0", "doc", "image", 1.0, "a plate", "s", "file:///p/ab.jpg", {}, 1, {"text": 1}),
    Hit("doc#txt-0", "doc", "chunk", 0.5, "90 mm wide", "s", None, {}, 2, {"text": 2}),
)
ANSWER = Answer(
    answer="90 mm [2].",
    citations=(Citation(2, "doc#txt-0"),),
    boxes=(PlacedBox(1, (0, 0, 5, 5), "90 mm"), PlacedBox("query", (1, 1, 2, 2), "it")),
    hits=HITS,
    degraded=("lexical: down",),
    timings_ms={},
    dropped={"citations": 1, "boxes": 3},
)
GIVEN = Given(
    text="90 mm [2].",
    evidence={
        1: Piece("doc#img-0", "a plate", True, "file:///p/ab.jpg"),
        2: Piece("doc#txt-0", "90 mm wide"),
    },
    boxes=(OnPicture("doc#img-0", (0, 0, 5, 5)), OnPicture("query", (1, 1, 2, 2))),
    unusable=3,
    degraded=("lexical: down",),
)


class Script:
    """Answers each question as it is told, an error among them."""

    def __init__(self, *says: Answer | Exception) -> None:
        self._says = iter(says)

    async def answer(self, question: Question) -> Answer:
        await asyncio.sleep(0)
        said = next(self._says)
        if isinstance(said, Exception):
            raise said
        return said


def written(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


def test_an_answer_of_this_process() -> None:
    assert given(ANSWER) == GIVEN


def test_what_is_kept_is_read_back_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    questions = [question("q1"), question("q2"), question("q3")]
    script = Script(ANSWER, BadImage("no picture"), UsageError("too long"))
    seen: list[tuple[int, int]] = []
    file.write_text("an earlier run")
    with keeping(file) as keep:
        found = ask_all(questions, script, keep, lambda done, total: seen.append((done, total)))
    assert found == {
        "q1": GIVEN,
        "q2": Given("", error="no picture"),
        "q3": Given("", error="too long"),
    }
    assert read_answers(file) == found
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_first_question_that_is_refused_ends_it_and_so_does_a_model_that_is_down() -> None:
    with pytest.raises(UsageError, match=r"q\.jsonl:q1: no such model"):
        ask_all([question("q1")], Script(UsageError("no such model")))
    with pytest.raises(GeneratorUnavailable):
        ask_all([question("q1"), question("q2")], Script(ANSWER, GeneratorUnavailable("down")))


def test_a_run_that_fails_leaves_the_answers_of_an_earlier_one(tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_text("an earlier run")
    script = Script(ANSWER, GeneratorUnavailable("down"))
    with pytest.raises(GeneratorUnavailable), keeping(file) as keep:
        ask_all([question("q1"), question("q2")], script, keep)
    assert file.read_text() == "an earlier run"
    assert read_answers(tmp_path / "kept.jsonl.part") == {"q1": GIVEN}


def test_a_place_to_keep_answers_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--keep .*: "), keeping(tmp_path / "no" / "kept.jsonl"):
        pass


def test_an_answer_of_any_system_is_enough(tmp_path: Path) -> None:
    rows = (
        {"id": "q1", "answer": " 90 mm "},
        {"id": "q2", "answer": "The evidence does not say.", "model": "other"},
        {"id": "q3", "answer": "资料中没有说明。", "refused": False},
        {"id": "q4", "error": "crashed"},
        {"id": "q6", "answer": " "},
        {"id": "q5", "answer": "a [1]", "hits": [{"id": "doc#img-0"}, "doc#txt-0"]},
    )
    found = read_answers(written(tmp_path / "a.jsonl", *rows))
    assert found["q1"] == Given("90 mm")
    assert found["q2"].refused
    assert not found["q3"].refused
    assert found["q4"] == Given("", error="crashed")
    assert found["q6"] == Given("", error="the answer is empty")
    assert found["q5"].evidence == {1: Piece("doc#img-0", "", True), 2: Piece("doc#txt-0", "")}


def test_a_hit_is_cited_by_its_own_number_be_it_0_and_else_by_its_place(tmp_path: Path) -> None:
    hits = [{"id": "a", "citation_id": 0, "text": "red"}, "b", {"id": "c", "citation_id": 7}]
    row = {"id": "q1", "answer": "Red [0].", "hits": hits}
    found = read_answers(written(tmp_path / "a.jsonl", row))["q1"]
    assert found.evidence == {0: Piece("a", "red"), 2: Piece("b", ""), 7: Piece("c", "")}


def test_what_ask_batch_wrote(tmp_path: Path) -> None:
    row = {
        "id": "q1",
        "query": "How wide?",
        "answer": "90 mm [2].",
        "refused": False,
        "citations": [{"n": 2, "hit_id": "doc#txt-0"}],
        "boxes": [
            {"image": "1", "xyxy": [0.0, 0.0, 5.0, 5.0], "label": ""},
            {"image": "query", "xyxy": [1.0, 1.0, 2.0, 2.0], "label": ""},
            {"image": "7", "xyxy": [1.0, 1.0, 2.0, 2.0], "label": ""},
        ],
        "hits": [
            {
                "id": "doc#img-0",
                "kind": "image",
                "text": "a plate",
                "source": "s",
                "image_uri": "file:///p.jpg",
            },
            {"id": "doc#txt-0", "kind": "text", "text": "It is 90 mm.", "source": "s", "image_uri": None},
        ],
        "degraded": [],
        "dropped": {"citations": 0, "boxes": 2},
        "total_ms": 1.0,
        "error": None,
    }
    failed = dict.fromkeys(row) | {"id": "q2", "error": "the query is empty"}
    pq.write_table(pa.Table.from_pylist([row, failed]), tmp_path / "a.parquet")
    found = read_answers(tmp_path / "a.parquet")
    assert found["q1"].evidence == {
        1: Piece("doc#img-0", "a plate", True, "file:///p.jpg"),
        2: Piece("doc#txt-0", "It is 90 mm."),
    }
    assert [box.picture for box in found["q1"].boxes] == ["doc#img-0", "query", ""]
    assert found["q1"].unusable == 2
    assert found["q2"] == Given("", error="the query is empty")


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"answer": "90"}], r"a\.jsonl:1: id: is missing"),
        ([{"id": "q1"}], r"a\.jsonl:1: has neither an answer nor an error"),
        ([{"id": "q1", "answer": "a"}, {"id": "q1", "answer": "b"}], r"a\.jsonl:2: a second answer to 'q1'"),
        ([{"id": "q1", "answer": 90}], r"a\.jsonl:1: answer: wanted text, in quotes"),
        (
            [{"id": "q1", "answer": "a", "boxes": [{"image": 1, "xyxy": [1]}]}],
            r"boxes\.0\.xyxy\.1: is missing",
        ),
        (
            [{"id": "q1", "answer": "a", "boxes": [{"image": "left", "xyxy": [0, 0, 1, 1]}]}],
            r"boxes\.0\.image: wanted the number of a hit, or 'query'$",
        ),
        ([{"id": "q1", "answer": "a", "hits": [7]}], r"hits\.0: wanted an object, in braces$"),
        ([{"id": "q1", "answer": "a", "hits": "doc"}], r"hits: wanted a list, in brackets$"),
        (
            [{"id": "q1", "answer": "a", "hits": [{"id": "a", "citation_id": 4}] * 2}],
            r"a\.jsonl:1: hits: 2 of them have the number 4$",
        ),
        (
            [{"id": "q1", "answer": "a", "hits": [{"id": "a", "citation_id": 2}, "b"]}],
            r"a\.jsonl:1: hits: 2 of them have the number 2$",
        ),
        (
            [{"id": "q1", "answer": "a", "hits": [{"id": "a", "citation_id": -1}]}],
            r"a\.jsonl:1: hits\.0\.citation_id: should be greater than or equal to 0$",
        ),
        (
            [{"id": "q0", "answer": "a"}, {"id": "q1", "answer": "a", "dropped": {"boxes": -1}}],
            r"a\.jsonl:2: dropped\.boxes: should be greater than or equal to 0$",
        ),
        (
            [{"id": "q1", "answer": "a", "dropped": {"boxes": 0.5}}],
            r"a\.jsonl:1: dropped\.boxes: wanted a whole number$",
        ),
    ],
)
def test_a_wrong_file_of_answers_is_named(tmp_path: Path, rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        read_answers(written(tmp_path / "a.jsonl", *rows))
    assert str(caught.value).startswith("--answers ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--answers .*nowhere"):
        read_answers(tmp_path / "nowhere")
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(UsageError, match=r"--answers .*a\.jsonl:1: no JSON"):
        read_answers(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match=r"--answers .*a\.parquet: cannot be read as Parquet"):
        read_answers(tmp_path / "a.parquet")


def test_saved_answers_are_joined_by_id_and_one_that_is_missing_failed() -> None:
    questions = [question("q1"), question("q2")]
    found = matched(questions, {"q1": GIVEN, "q9": GIVEN})
    assert found == {"q1": GIVEN, "q2": Given("", error="no answer was saved")}
    with pytest.raises(UsageError, match="none of these questions"):
        matched(questions, {"q9": GIVEN})


def test_answers_and_questions_that_do_not_meet_are_counted() -> None:
    asked = [question(f"q{n}") for n in range(4)]
    assert unmatched(asked, asked, {one.id: GIVEN for one in asked}) == ""
    found = unmatched(asked, asked[:2], {"q0": GIVEN, "q3": GIVEN, "q8": GIVEN, "q9": GIVEN})
    assert found == (
        "answers to no question of the data, which are left out: 2; "
        "questions without an answer, which count as failed: 1"
    )
