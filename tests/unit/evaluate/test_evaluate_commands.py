"""`mmrag evaluate generation` and `grounding` as their users meet them, with an index in memory and a model
that says what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Scripted, completion
from fakes import chunk_part, image_part, memory_index, picture
from shell import mmrag

import pipelines.core.engine
import pipelines.core.index
from pipelines.cli_report import Run
from pipelines.core.generator import GeneratorConfig, Prompt, Sampling, load_profile
from pipelines.evaluate.grounding import BoxFigures, Report
from pipelines.evaluate.judge import ENTAILMENT
from pipelines.settings import Settings

SCORES = '{"accuracy": 5, "completeness": 4, "verifiability": 3}'

_HALF = round((load_profile(GeneratorConfig()).frame.units - 1) / 2)
SAYS = {
    "How wide": "It is 90 mm [1].",
    "Who": "The evidence does not say.",
    "Where": f"Here [[0,0,{_HALF},{_HALF}]].",
}


class Parrot:
    """In place of the engine: an answer for the words of the question."""

    def __init__(self, config: GeneratorConfig) -> None:
        pass

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str]:
        await asyncio.sleep(0)
        asked = prompt.turns[-1].text.rpartition("Question: ")[2]
        yield next(said for words, said in SAYS.items() if asked.startswith(words))


@pytest.fixture
def kb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "160")
    index = memory_index(tmp_path / "kb")
    red = np.array([[1, 0, 0, 1, 0, 0]], np.float32) / np.sqrt(2, dtype=np.float32)
    index.visual().upsert([image_part("rose")], red)
    chunks = [chunk_part("plate", "wide: 90 mm")]
    index.text().upsert(chunks, index.embedder().embed_passages([chunk.text for chunk in chunks]))
    index.lexical().upsert(chunks)
    monkeypatch.setattr(pipelines.core.index, "Index", lambda *words, **fields: index)
    monkeypatch.setattr(pipelines.core.engine, "TransformersEngine", Parrot)
    return index.directory


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted.running() as found:
        yield found


def written(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return file


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "green.png").write_bytes(picture("green", side=100))
    return written(
        tmp_path / "judged.jsonl",
        {"id": "q1", "query": "How wide is the plate?", "answers": ["90 mm"]},
        {"id": "q2", "query": "Who made the plate?", "answerable": False},
        {
            "id": "q3",
            "query": "Where is the green one?",
            "image": "green.png",
            "boxes": [{"image": "query", "xyxy": [0, 0, 50, 50]}],
        },
    )


def test_generation_asks_the_index_and_measures(kb: Path, data: Path) -> None:
    found = mmrag("evaluate", "generation", "--data", data, "--index", kb, "--json")
    assert found.status == 0, found.err
    assert found.out.count("\n") == 1
    body = json.loads(found.out)
    assert list(body["groups"]) == ["overall", "en"]
    overall = body["groups"]["overall"]["metrics"]
    assert overall["refusal_accuracy"] == {"mean": 1, "low": 1, "high": 1, "queries": 3}
    assert overall["refused@unanswerable"]["queries"] == 1
    assert overall["token_f1"]["mean"] == pytest.approx(2 * 2 / (4 + 2))
    assert body["counts"] == {"questions": 3, "unanswerable": 1, "refused": 1, "failed": 0}
    assert body["per_query"][0]["answer"] == "It is 90 mm [1]."
    assert (body["answers"], body["judge"], body["comparison"]) == (None, {}, None)
    assert (body["confidence"], body["resamples"]) == (0.95, 2000)


def test_generation_prints_tables(kb: Path, data: Path) -> None:
    found = mmrag("evaluate", "generation", "--data", data, "--index", kb)
    assert found.status == 0, found.err
    for shown in ("all questions (3)", "en (3)", "refusal_accuracy", "token_f1", "of 1", "1 refused"):
        assert shown in found.out
    assert "answering" in found.err
    assert "citation_recall, citation_precision: by words, version 3, coverage 0.75\n" in found.out
    assert "\nsemantic_similarity: by use-multilingual-v3, " in found.out
    assert "judge_" not in found.out


def test_grounding_asks_the_index_and_measures(kb: Path, data: Path, tmp_path: Path) -> None:
    command = ["evaluate", "grounding", "--data", data]
    found = mmrag(*command, "--index", kb, "--keep", tmp_path / "kept.jsonl", "--json")
    assert found.status == 0, found.err
    body = json.loads(found.out)
    assert body["counts"]["boxed"] == 1
    assert body["left_out"] == 2
    assert body["groups"]["overall"]["metrics"]["precision@iou0.5"]["mean"] == 1
    assert body["groups"]["overall"]["metrics"]["iou"]["mean"] > 0.95
    shown = mmrag(*command, "--answers", tmp_path / "kept.jsonl")
    assert "1 boxed" in shown.out
    assert "left out" in shown.out


def test_a_count_of_boxes_below_0_is_refused_and_its_figures_are_not_written(
    data: Path, tmp_path: Path
) -> None:
    box = {"image": "query", "xyxy": [0, 0, 50, 50]}
    row = {"id": "q3", "answer": "Here.", "boxes": [box], "dropped": {"boxes": -1}}
    answers = written(tmp_path / "answers.jsonl", row)
    found = mmrag("evaluate", "grounding", "--data", data, "--answers", answers, "--json")
    assert (found.status, found.out) == (2, "")
    assert "answers.jsonl:1: dropped.boxes: should be greater than or equal to 0" in found.err


def test_a_report_with_what_json_has_no_number_for_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.begin(Settings(), (), None, None, as_json=True)
    figures = BoxFigures("q1", "en", {"iou": float("nan")}, "boxed", "", "", ())
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.conclude(Report({}, 0, {}, {}, (), (figures,)), {}, lambda: None, lambda: pytest.fail("a page"))
    assert capsys.readouterr().out == ""


def test_answers_that_were_kept_give_the_same_figures_without_the_index(
    kb: Path, data: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.jsonl"
    command = ["evaluate", "generation", "--data", data, "--json"]
    asked = mmrag(*command, "--index", kb, "--keep", kept)
    again = mmrag(*command, "--index", tmp_path / "nowhere", "--answers", kept)
    assert again.status == 0, again.err
    assert json.loads(again.out)["groups"] == json.loads(asked.out)["groups"]
    assert json.loads(again.out)["per_query"] == json.loads(asked.out)["per_query"]


@pytest.mark.parametrize(("what", "missing"), [("generation", 2), ("grounding", 0)])
def test_answers_to_no_question_and_questions_without_an_answer_are_told(
    data: Path, tmp_path: Path, what: str, missing: int
) -> None:
    answers = written(tmp_path / "answers.jsonl", *({"id": n, "answer": "Here."} for n in ("q3", "Q1", "Q2")))
    found = mmrag("evaluate", what, "--data", data, "--answers", answers, "--json")
    assert found.status == 0, found.err
    assert "mmrag: --answers: answers to no question of the data, which are left out: 2; " in found.err
    assert f"questions without an answer, which count as failed: {missing}\n" in found.err
    written(answers, *({"id": n, "answer": "Here."} for n in ("q1", "q2", "q3")))
    assert "--answers" not in mmrag("evaluate", what, "--data", data, "--answers", answers).err


@pytest.mark.parametrize("what", ["generation", "grounding"])
def test_a_report_is_written_beside_the_figures(kb: Path, data: Path, tmp_path: Path, what: str) -> None:
    page = tmp_path / "report.html"
    found = mmrag("evaluate", what, "--data", data, "--index", kb, "--report", page, "--json")
    assert found.status == 0, found.err
    assert json.loads(found.out)["per_query"]
    text = page.read_text("utf-8")
    assert ("token_f1" if what == "generation" else "precision@iou0.5") in text
    named = "<dt>citation_recall, citation_precision</dt><dd>by words, version 3, coverage 0.75</dd>"
    assert (named in text) == (what == "generation")


def test_a_judge_scores_the_answers_and_checks_their_citations(
    server: Scripted, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRAG_EVALUATE__JUDGE__API_KEY", "sk-secret")
    answers = written(
        tmp_path / "answers.jsonl",
        {"id": "q1", "answer": "90 mm [1].", "hits": [{"id": "plate#txt-0", "text": "ninety millimetres"}]},
        {"id": "q2", "answer": "The evidence does not say."},
        {"id": "q3", "answer": "There."},
    )
    server.replies_to = lambda system: "yes" if system == ENTAILMENT else SCORES
    settings = ["evaluate.entailment=judge", f"evaluate.judge.url={server.url}", "evaluate.judge.model=m"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    found = mmrag("evaluate", "generation", "--data", data, "--answers", answers, "--json", *chosen)
    assert found.status == 0, found.err
    assert "sk-secret" not in found.out + found.err
    body = json.loads(found.out)
    overall = body["groups"]["overall"]["metrics"]
    assert overall["judge_completeness"] == {"mean": 4, "low": 4, "high": 4, "queries": 3}
    assert body["per_query"][0]["metrics"]["citation_recall"] == 1
    assert body["judge"]["scored"] == 3
    semantic = body["instruments"].pop("semantic_")
    assert semantic.startswith("use-multilingual-v3, ")
    assert body["instruments"] == {"citation_": "m, rubric 1", "judge_": "m, rubric 1"}
    assert {key for _, key, _ in server.asked} == {"Bearer sk-secret"}
    assert sum(bool(server.pictures(n)) for n in range(len(server.asked))) == 2  # q3's, in both orders


@pytest.fixture
def judged(server: Scripted, data: Path, tmp_path: Path) -> list[Any]:
    """The command, with answers and a judge, that prints JSON."""
    answers = written(tmp_path / "answers.jsonl", *({"id": f"q{n}", "answer": "90 mm"} for n in (1, 2, 3)))
    sets = [f"evaluate.judge.url={server.url}", "evaluate.judge.model=m", "evaluate.judge.retries=0"]
    chosen = [word for one in [*sets, "evaluate.judge.concurrency=1"] for word in ("--set", one)]
    return ["evaluate", "generation", "--data", data, "--answers", answers, "--json", *chosen]


def test_a_judge_that_goes_leaves_what_it_scored(server: Scripted, judged: list[Any]) -> None:
    good, gone = (200, {}, completion(SCORES)), (429, {}, b'{"error": {"message": "no quota"}}')
    server.replies = [good, good, gone]
    found = mmrag(*judged)
    assert found.status == 1
    body = json.loads(found.out)
    assert (body["judge"]["scored"], body["judge"]["unanswered"]) == (1, 2)
    assert body["groups"]["overall"]["metrics"]["judge_accuracy"]["queries"] == 1
    assert "the judge scored 1 of 3 answers: 2 unanswered" in found.err
    assert "answers 429: no quota" in found.err
    assert len(server.asked) == 3


def test_citations_that_the_judge_did_not_decide_are_told(
    server: Scripted, data: Path, tmp_path: Path
) -> None:
    hits = [{"id": "plate#txt-0", "text": "ninety millimetres"}]
    rows = [{"id": f"q{n}", "answer": "90 mm [1].", "hits": hits} for n in (1, 2, 3)]
    answers = written(tmp_path / "answers.jsonl", *rows)
    server.replies_to = lambda system: "Perhaps." if system == ENTAILMENT else SCORES
    settings = ["evaluate.entailment=judge", f"evaluate.judge.url={server.url}", "evaluate.judge.model=m"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    found = mmrag("evaluate", "generation", "--data", data, "--answers", answers, "--json", *chosen)
    assert "not decided, so neither right nor wrong: 3 unparsable of the cited statements" in found.err
    assert "citation_recall" not in json.loads(found.out)["groups"]["overall"]["metrics"]


def test_verdicts_that_cannot_be_read_are_told(server: Scripted, judged: list[Any]) -> None:
    server.says("5/5")
    found = mmrag(*judged)
    assert found.status == 0
    assert "the judge scored none of 3 answers: 3 unparsable" in found.err
    assert "evaluate.judge.max_tokens" in found.err


def test_a_fence_around_verdicts_is_no_verdict_and_what_may_help_is_told(
    server: Scripted, judged: list[Any]
) -> None:
    server.says(f"```json\n{SCORES}\n```")
    found = mmrag(*judged)
    assert json.loads(found.out)["judge"]["unparsable"] == 3
    assert "evaluate.judge.extra_body={response_format: {type: json_object}} may keep it" in found.err
    server.says(SCORES)
    told = mmrag(*judged, "--set", "evaluate.judge.extra_body={response_format: {type: json_object}}")
    assert json.loads(told.out)["judge"]["scored"] == 3
    assert server.asked[-1][2]["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("entailment", ["lexical", "judge"])
def test_a_judge_without_the_previews_of_the_index_is_told_to_name_it(
    server: Scripted, data: Path, tmp_path: Path, entailment: str
) -> None:
    data.write_text(data.read_text("utf-8").splitlines()[0])
    hit = {"id": "plate#img-0", "image_uri": "file:///kb/previews/ab/" + "ab" * 32 + ".jpg"}
    answers = written(tmp_path / "answers.jsonl", {"id": "q1", "answer": "90 mm [1].", "hits": [hit]})
    server.replies_to = lambda system: "yes" if system == ENTAILMENT else SCORES
    sets = [f"evaluate.judge.url={server.url}", "evaluate.judge.model=m", f"evaluate.entailment={entailment}"]
    chosen = [word for one in sets for word in ("--set", one)]
    command = ["evaluate", "generation", "--data", data, "--answers", answers, "--json", *chosen]
    index = tmp_path / "elsewhere"
    found = mmrag(*command, "--index", index)
    assert json.loads(found.out)["judge"]["unseen"] == 1
    said = f"there is no {index / 'previews'}, so the judge saw no picture of the evidence"
    assert f"mmrag: {said}: name the index that the answers are from with --index\n" in found.err
    (index / "previews").mkdir(parents=True)
    assert "--index" not in mmrag(*command, "--index", index).err
    written(answers, {"id": "q1", "answer": "90 mm [1].", "hits": [{"id": "plate#txt-0"}]})
    assert "--index" not in mmrag(*command, "--index", tmp_path / "nowhere").err


def test_a_judge_that_is_not_there_is_told_before_anything_is_asked(kb: Path, judged: list[Any]) -> None:
    found = mmrag(*judged, "--set", "evaluate.judge.url=http://127.0.0.1:9")
    assert (found.status, found.out) == (1, "")
    assert "127.0.0.1:9 does not answer" in found.err


@pytest.fixture
def saved(tmp_path: Path) -> list[Any]:
    """The command over six questions and their answers, in a file of each."""
    names = [f"q{n}" for n in range(6)]
    data = written(tmp_path / "six.jsonl", *({"id": n, "query": "How?", "answers": ["90 mm"]} for n in names))
    answers = written(tmp_path / "answers.jsonl", *({"id": n, "answer": "90 mm"} for n in names))
    return ["evaluate", "generation", "--data", data, "--answers", answers, "--index", tmp_path / "none"]


def test_a_fall_against_the_baseline_is_status_1(saved: list[Any], tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(mmrag(*saved, "--json").out)
    same = mmrag(*saved, "--baseline", before)
    assert same.status == 0, same.err
    assert "6 queries of both" in same.out
    written(tmp_path / "answers.jsonl", {"id": "q1", "answer": "12 mm"})
    fell = mmrag(*saved, "--baseline", before, "--json")
    assert fell.status == 1
    assert "fell against" in fell.err
    assert "gone since" not in fell.err
    body = json.loads(fell.out)
    assert body["comparison"]["metrics"]["exact_match"]["fell"]
    assert body["counts"]["failed"] == 5


def test_a_fall_of_too_few_is_told_and_fails_nothing(saved: list[Any], tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(mmrag(*saved, "--json").out)
    one = (tmp_path / "six.jsonl").read_text().splitlines()[0]
    (tmp_path / "six.jsonl").write_text(one)
    written(tmp_path / "answers.jsonl", {"id": "q0", "answer": "12 mm"})
    found = mmrag(*saved, "--baseline", before)
    assert found.status == 0
    assert "fell, of too few" in found.out
    assert "5 queries that only the baseline has" in found.err
    few = "mmrag: no measure can fall: 1 queries of both, and a fall takes 6 that differ\n"
    assert few in found.err
    surer = mmrag(*saved, "--baseline", before, "--set", "evaluate.confidence=0.99")
    assert "and a fall takes 8 that differ" in surer.err


def test_six_queries_of_both_can_fall(saved: list[Any], tmp_path: Path) -> None:
    before = tmp_path / "before.json"
    before.write_text(mmrag(*saved, "--json").out)
    assert "can fall" not in mmrag(*saved, "--baseline", before).err


def test_questions_that_were_edited_are_left_out_of_the_comparison(saved: list[Any], tmp_path: Path) -> None:
    before, page = tmp_path / "before.json", tmp_path / "report.html"
    before.write_text(mmrag(*saved, "--json").out)
    asked = [{"id": f"q{n}", "query": "How?", "answers": ["90 mm"]} for n in range(6)]
    edited = {"answers": ["12 mm"]}
    written(tmp_path / "six.jsonl", *asked[:1], *(row | edited for row in asked[1:]))
    found = mmrag(*saved, "--baseline", before, "--json", "--report", page)
    assert found.status == 0, found.err
    said = "not compared: 5 queries that were edited since the baseline: what is asked, or what is right\n"
    assert said in found.err
    assert "Not compared: 5 queries that were edited." in page.read_text("utf-8")
    comparison = json.loads(found.out)["comparison"]
    assert (comparison["queries"], comparison["edited"], comparison["only_before"]) == (1, 5, 0)
    written(tmp_path / "six.jsonl", *(row | edited for row in asked))
    found = mmrag(*saved, "--baseline", before, "--json")
    assert (found.status, found.out) == (2, "")
    assert "--baseline: all that it has of these queries were edited since; make it anew" in found.err


def test_a_measure_that_is_gone_is_status_1(saved: list[Any], tmp_path: Path) -> None:
    before, asked, without = tmp_path / "before.json", tmp_path / "six.jsonl", tmp_path / "without.jsonl"
    unanswerable = written(without, {"id": "q6", "query": "Who?", "answerable": False}).read_text()
    asked.write_text(asked.read_text() + unanswerable)
    before.write_text(mmrag(*saved, "--json").out)
    written(tmp_path / "answers.jsonl", {"id": "q6", "answer": "90 mm"})
    asked.write_text(unanswerable)
    found = mmrag(*saved, "--baseline", before, "--json")
    assert found.status == 1
    gone = ["answered@answerable", "exact_match", "rouge_l", "semantic_similarity", "token_f1"]
    assert f"gone since {before}: {', '.join(gone)}\n" in found.err


def test_a_judge_that_is_gone_is_status_1(server: Scripted, judged: list[Any], tmp_path: Path) -> None:
    server.says(SCORES)
    before = tmp_path / "before.json"
    before.write_text(mmrag(*judged).out)
    without = judged[: judged.index("--json")]
    found = mmrag(*without, "--baseline", before)
    assert found.status == 1
    gone = "judge_accuracy, judge_completeness, judge_verifiability"
    assert f"gone since {before}: {gone}\n" in found.err
    another = mmrag(*judged, "--set", "evaluate.judge.model=n", "--baseline", before)
    assert another.status == 0, another.err


def test_figures_are_printed_before_what_may_fail(saved: list[Any], tmp_path: Path) -> None:
    full = tmp_path / "r.html"
    full.symlink_to("/dev/full")
    found = mmrag(*saved, "--report", full, "--json")
    assert found.status == 2
    assert "--report" in found.err
    assert json.loads(found.out)["groups"]["overall"]["metrics"]["exact_match"]["mean"] == 1
    other = tmp_path / "other.json"
    other.write_text('{"per_query": [{"id": "q1", "metrics": {"recall@5": 1}}]}')
    found = mmrag(*saved, "--baseline", other, "--json")
    assert found.status == 2
    assert "has none of these measures" in found.err
    assert json.loads(found.out)["comparison"]["metrics"] == {}


def test_what_was_measured_stands_in_the_report(
    kb: Path, data: Path, saved: list[Any], tmp_path: Path
) -> None:
    row = {"id": "q1", "metrics": {"exact_match": 0}}
    before = tmp_path / "before.json"
    before.write_text(json.dumps({"per_query": [row], "system": {"search.candidates": 30, "version": "0"}}))
    command = ["evaluate", "generation", "--data", data, "--index", kb]
    body = json.loads(mmrag(*command, "--baseline", before, "--json").out)
    assert {"version", "date", "encoder.kind", "search.fusion", "generator.model"} <= body["system"].keys()
    assert body["comparison"]["system"]["search.candidates"] == [30, 50]
    found = mmrag(*saved, "--baseline", before)
    assert "version: 0 → " in found.out
    assert set(json.loads(mmrag(*saved, "--json").out)["system"]) == {"version", "date"}


def test_what_steers_a_terminal_is_not_printed(saved: list[Any], tmp_path: Path) -> None:
    names = [f"q{n}\x1b[2J\r\n" for n in range(6)]
    asked = {"query": "How?", "language": "e\x1b[31mn"}
    data = tmp_path / "six.jsonl"
    written(data, *({"id": n, **asked, "answers": ["90 mm"]} for n in names), {"id": "z", "query": "Who?"})
    answers = tmp_path / "answers.jsonl"
    written(answers, *({"id": n, "answer": "90 mm"} for n in [*names, "z"]))
    before = tmp_path / "before.json"
    before.write_text(mmrag(*saved, "--json").out)
    written(answers, *({"id": n, "answer": "12 mm"} for n in [*names, "z"]))
    found = mmrag(*saved, "--baseline", before)
    assert found.status == 1
    assert "the worst: q0[2J, q1[2J, " in found.out
    assert "exact_match (e[31mn)" in found.out
    assert "exact_match (e[31mn)" in found.err
    assert "\x1b" not in found.out + found.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--answers", "nowhere.jsonl"], "--answers nowhere.jsonl: No such file"),
        (["--baseline", "nowhere.json"], "--baseline nowhere.json: No such file"),
        (["--answers", "a", "--keep", "b"], "do not go together"),
        (["--report", "nowhere/r.html"], "--report nowhere/r.html: wanted the name of a file"),
        (["--set", "evaluate.entailment=judge"], "needs a judge"),
        (["--set", "evaluate.judge.url=http://j"], "evaluate.judge.model: Field required"),
    ],
)
@pytest.mark.parametrize("what", ["generation", "grounding"])
def test_a_wrong_command_is_status_2_and_one_line(
    kb: Path, data: Path, what: str, arguments: list[str], complaint: str
) -> None:
    found = mmrag("evaluate", what, "--data", data, "--index", kb, "--json", *arguments)
    assert (found.status, found.out) == (2, "")
    assert complaint in found.err
    assert found.err.splitlines()[-1].startswith("mmrag: ")


def test_no_boxes_are_told_before_anything_is_asked(kb: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "q.jsonl", {"id": "q1", "query": "How wide?"})
    found = mmrag("evaluate", "grounding", "--data", data, "--index", kb)
    assert found.status == 2
    assert "no question has boxes" in found.err


def test_another_tenants_documents_are_neither_found_nor_right(kb: Path, tmp_path: Path) -> None:
    index = pipelines.core.index.Index(kb)
    chunks = [
        chunk_part("1", "wide wide wide", tenant="globex"),
        chunk_part("1", "a wide road", tenant="acme"),
    ]
    index.text().upsert(chunks, index.embedder().embed_passages([chunk.text for chunk in chunks]))
    index.lexical().upsert(chunks)
    data = written(tmp_path / "queries.jsonl", {"id": "q", "text": "wide", "relevant": ["1"]})
    for tenant, found in (("acme", 1), ("initech", 0)):
        shown = mmrag(
            "evaluate", "retrieval", "--data", data, "--index", kb, "--json",
            "--set", f"ingest.sources.tenant={tenant}",
        )  # fmt: skip
        (one,) = json.loads(shown.out)["per_query"]
        assert (one["metrics"]["success@1"], one["metrics"]["recall@20"]) == (found, found)
