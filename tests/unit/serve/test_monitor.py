"""Served answers that are measured, ratings, and the file where both meet."""

from __future__ import annotations

import json
import re
import stat
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import DOCS, blocks
from gateway_fakes import ANSWER, HIT, ScriptedBackend, app_of, bearer, client_of, keys, until

from pipelines.core.answer import Question
from pipelines.core.entailment import Lexical, Piece
from pipelines.core.errors import UsageError
from pipelines.core.retriever import Query
from pipelines.core.types import Answer, Citation
from pipelines.evaluate.generation import figures
from pipelines.evaluate.given import given
from pipelines.evaluate.questions import JudgedQuestion
from pipelines.serve import monitor
from pipelines.serve.config import MonitorConfig
from pipelines.serve.metrics import Metrics, exposition
from pipelines.serve.monitor import Asker, Monitor
from pipelines.serve.protection import Admission
from pipelines.serve.sample import sample

pytestmark = pytest.mark.anyio

QUESTION = Question(Query("How far apart are the holes, and what is it made of?"))
NOTE = replace(HIT, id="sink#txt-0", kind="chunk", text="The holes are 40 mm apart.", image_uri=None)
OTHER = replace(NOTE, id="fan#txt-0", text="A fan of steel.", citation_id=2)
# Of three statements the first is supported, the second's citation does not, and the third cites nothing; of
# two citations one is relevant.
CLAIMS = Answer(
    answer="The holes are 40 mm apart [1]. It is made of gold [2]. It is blue.",
    citations=(Citation(1, NOTE.id), Citation(2, OTHER.id)),
    boxes=(),
    hits=(
        replace(NOTE, scores={"text": 0.61, "lexical": 7.5}),
        replace(OTHER, scores={"text": 0.42, "text_to_image": 0.2}),
    ),
    degraded=("aligner: no answer within 30 s",),
    timings_ms={"retrieve": 12.0, "total": 45.0},
    dropped={"citations": 1, "boxes": 0},
)
REFUSAL = replace(CLAIMS, answer="The evidence does not say.", citations=(), refused=True)


def metrics() -> Metrics:
    return Metrics(Admission(1, 1, 1))


def told(found: Metrics) -> str:
    return exposition({"": found.families()}).decode()


def ratings(told: str) -> dict[str, float]:
    found = re.findall(r'^mmrag_ratings_total{rating="(.*)"} (.*)$', told, re.MULTILINE)
    return {rating: float(count) for rating, count in found}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


async def asked(
    file: Path, count: int, *, answer: Answer = CLAIMS, question: str = "q", **settings: Any
) -> list[dict[str, Any]]:
    """The file's lines after a question to a gateway that measures every answer."""
    backend = ScriptedBackend()
    backend.result = answer
    app = app_of(backend, monitor={"sample": 1, "file": file, **settings})
    async with client_of(app) as client:
        headers = {"X-Request-Id": "r-1"}
        assert (await client.post("/v1/answer", json={"query": question}, headers=headers)).status_code == 200
        await until(lambda: len(lines(file)) == count)
    return lines(file)


# What is measured.


def test_figures_are_those_of_the_evaluation() -> None:
    asked = JudgedQuestion("q", "", "q", None, None, "en", ("40 mm",), True, ())
    for answer in (CLAIMS, REFUSAL, ANSWER):
        offline = figures(asked, given(answer), Lexical(), None)
        online = sample(answer, Lexical())
        assert online.statements == offline.statements
        assert online.figures == {
            name: value for name, value in offline.metrics.items() if name.startswith("citation_")
        }
    assert sample(CLAIMS, Lexical()).figures == {"citation_recall": 1 / 3, "citation_precision": 1 / 2}


def test_a_refusal_has_no_figures_of_citations() -> None:
    found = sample(REFUSAL, Lexical())
    assert (found.refused, found.figures, found.statements) == (True, {}, {})
    assert found.evidence == ("sink#txt-0", "fan#txt-0")


def test_the_nearest_evidence_is_told_where_scores_are_cosines() -> None:
    assert sample(CLAIMS, Lexical()).best_cosine == {"text": 0.61, "text_to_image": 0.2}


# Which ones are, and when.


async def test_a_measured_answer_is_counted_and_written_without_a_word_of_it(tmp_path: Path) -> None:
    file = tmp_path / "monitor.jsonl"
    (line,) = await asked(file, 1, question="a private question")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("answered_at"))
    assert line == {
        "request_id": "r-1",
        "tenant": None,
        "citation_recall": 1 / 3,
        "citation_precision": 1 / 2,
        "refused": False,
        "statements": {"supported": 1, "unsupported": 2},
        "dropped": {"citations": 1, "boxes": 0},
        "evidence": ["sink#txt-0", "fan#txt-0"],
        "best_cosine": {"text": 0.61, "text_to_image": 0.2},
        "degraded": ["aligner"],
        "total_ms": 45.0,
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_its_words_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    (line,) = await asked(tmp_path / "m.jsonl", 1, question="孔距？", keep_text=True)
    assert (line["question"], line["answer"]) == ("孔距？", CLAIMS.answer)


async def test_every_kind_of_answer_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    app = app_of(ScriptedBackend(), monitor={"sample": 1, "file": file})
    said = {"messages": [{"role": "user", "content": "q"}]}
    async with client_of(app) as client:

        async def counted() -> bool:  # after its line is written
            return 'mmrag_sampled_answers_total{result="measured"} 2.0' in (await client.get("/metrics")).text

        for number, body in enumerate((said, said | {"stream": True})):
            headers = {"X-Request-Id": f"r-{number}"}
            await client.post("/v1/chat/completions", json=body, headers=headers)
        await client.post("/v1/search", json={"query": "q"})
        await until(counted)
    assert [line["request_id"] for line in lines(file)] == ["r-0", "r-1"]


async def test_nothing_is_measured_unless_it_is_asked_for() -> None:
    async with client_of(app_of(ScriptedBackend())) as client:
        await client.post("/v1/answer", json={"query": "q"})
        found = (await client.get("/metrics")).text
    assert "mmrag_sampled_answers_total{" not in found
    assert "mmrag_evidence_hits_count 0.0" in found


async def test_a_share_of_the_answers_is_drawn() -> None:
    counted, draws = metrics(), iter((0.0, 0.29, 0.3, 0.99))
    watching = Monitor(MonitorConfig(sample=0.3), counted, draw=lambda: next(draws))
    for number in range(4):
        watching.answered(Asker(str(number), None), QUESTION, CLAIMS)
    await until(lambda: 'result="measured"} 2.0' in told(counted))


async def test_figures_stand_in_the_metrics() -> None:
    counted = metrics()
    Monitor(MonitorConfig(sample=1), counted).answered(Asker("r", None), QUESTION, CLAIMS)
    await until(lambda: 'result="measured"} 1.0' in told(counted))
    found = told(counted)
    assert 'mmrag_answer_figures_bucket{le="0.3",measure="citation_recall"} 0.0' in found
    assert 'mmrag_answer_figures_bucket{le="0.4",measure="citation_recall"} 1.0' in found
    assert 'mmrag_answer_figures_sum{measure="citation_precision"} 0.5' in found
    assert 'mmrag_statements_total{verdict="unsupported"} 2.0' in found
    assert "mmrag_evidence_hits_sum 2.0" in found
    assert 'mmrag_best_cosine_sum{branch="text"} 0.61' in found
    assert 'branch="lexical"' not in found


async def test_beyond_so_many_that_wait_answers_are_skipped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()

    def slow(statement: str, evidence: Sequence[Piece]) -> str:
        assert gate.wait(10)
        return "supported"

    monkeypatch.setattr(monitor, "Lexical", lambda coverage: slow)
    counted = metrics()
    watching = Monitor(MonitorConfig(sample=1), counted)
    for number in range(monitor.WAITING + 3):
        watching.answered(Asker(str(number), None), QUESTION, CLAIMS)
    assert 'mmrag_sampled_answers_total{result="skipped"} 3.0' in told(counted)
    gate.set()
    await until(lambda: f'result="measured"}} {monitor.WAITING}.0' in told(counted))
    watching.answered(Asker("later", None), QUESTION, CLAIMS)
    await until(lambda: f'result="measured"}} {monitor.WAITING + 1}.0' in told(counted))


async def test_a_line_that_cannot_be_written_fails_no_answer_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gone").mkdir()
    app = app_of(ScriptedBackend(), monitor={"sample": 1, "file": tmp_path / "gone" / "m.jsonl"})
    (tmp_path / "gone" / "m.jsonl").unlink()
    (tmp_path / "gone").rmdir()
    async with client_of(app) as client:
        assert (await client.post("/v1/answer", json={"query": "q"})).status_code == 200
        await until(lambda: "an answer could not be measured" in caplog.text)
        found = (await client.get("/metrics")).text
        assert 'mmrag_sampled_answers_total{result="failed"} 1.0' in found
        rated = await client.post("/v1/feedback", json={"request_id": "r", "rating": "up"})
        assert rated.status_code == 500
        assert ratings((await client.get("/metrics")).text) == {"up": 0, "down": 0}


def test_a_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"serve\.monitor\.file .* cannot be written: No such file"):
        Monitor(MonitorConfig(file=tmp_path / "no" / "m.jsonl"), metrics())


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file, moved = tmp_path / "m.jsonl", tmp_path / "m.jsonl.1"
    watching = Monitor(MonitorConfig(file=file), metrics())
    watching.rated(Asker("r-1", None), "up")
    file.rename(moved)
    watching.rated(Asker("r-2", None), "down")
    assert [line["request_id"] for line in (*lines(moved), *lines(file))] == ["r-1", "r-2"]


def test_words_need_a_file_to_be_kept_in() -> None:
    with pytest.raises(ValueError, match=r"set monitor\.file"):
        MonitorConfig(keep_text=True)


# Ratings.


async def test_a_rating_meets_its_answer_by_id_and_tenant(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    settings = {"monitor": {"sample": 1, "file": file}, "api_keys": keys(anna="a", bert="b")}
    # Two gateways: a rating may come to another one than its question did.
    backend = ScriptedBackend()
    backend.result = CLAIMS
    one, other = (client_of(app_of(backend, **settings)) for _ in range(2))
    async with one, other:
        for name, client, path, body in (
            ("anna", one, "answer", {"query": "q"}),
            ("bert", other, "feedback", {"request_id": "r-1", "rating": "up"}),
            ("anna", other, "feedback", {"request_id": "r-1", "rating": "up"}),
            ("anna", one, "feedback", {"request_id": "r-1", "rating": "down"}),
        ):
            headers = {"Authorization": f"Bearer {bearer(name)}", "X-Request-Id": "r-1"}
            found = await client.post(f"/v1/{path}", json=body, headers=headers)
            assert found.status_code == (200 if path == "answer" else 204)
            if path == "answer":
                await until(lambda: len(lines(file)) == 1)
        assert 'mmrag_ratings_total{rating="up"} 2.0' in (await other.get("/metrics")).text
    assert [(line["tenant"], line.get("rating")) for line in lines(file)] == [
        ("a", None), ("b", "up"), ("a", "up"), ("a", "down"),
    ]  # fmt: skip
    pandas = pytest.importorskip("pandas")
    (program,) = [
        block.text
        for block in blocks(DOCS / "how-to" / "evaluate.md")
        if "monitor.jsonl" in block.text and block.language == "python"
    ]
    names: dict[str, Any] = {}
    exec(program.replace("monitor.jsonl", str(file)), names)
    joined = names["joined"]
    assert isinstance(joined, pandas.DataFrame)
    assert joined.loc[("a", "r-1"), "rating"] == "down"
    assert joined.loc[("a", "r-1"), "evidence"] == ["sink#txt-0", "fan#txt-0"]
    assert joined.loc[("b", "r-1"), "rating"] == "up"
    assert pandas.isna(joined.loc[("b", "r-1"), "answered_at"])


@pytest.mark.parametrize(
    "body",
    [
        {"request_id": "r-1"},
        {"request_id": "r-1", "rating": "sideways"},
        {"request_id": "r-1", "rating": 1},
        {"request_id": "", "rating": "up"},
        {"request_id": "x" * 65, "rating": "up"},
        {"request_id": "r-1\n", "rating": "up"},
        {"request_id": "../r", "rating": "up"},
        {"request_id": "r-1", "rating": "up", "tenant": "b"},
    ],
)
async def test_a_rating_that_is_none_is_refused(body: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    async with client_of(app_of(ScriptedBackend(), monitor={"file": file})) as client:
        assert (await client.post("/v1/feedback", json=body)).status_code == 400
        assert ratings((await client.get("/metrics")).text) == {"up": 0, "down": 0}
    assert lines(file) == []


async def test_a_rating_needs_a_key_and_takes_from_its_rate() -> None:
    app = app_of(ScriptedBackend(), api_keys=keys(anna="a"), rate_per_minute=1)
    body = {"request_id": "r-1", "rating": "up"}
    async with client_of(app) as client:
        assert (await client.post("/v1/feedback", json=body)).status_code == 401
        client.headers["Authorization"] = f"Bearer {bearer('anna')}"
        assert (await client.post("/v1/feedback", json=body)).status_code == 204
        assert (await client.post("/v1/feedback", json=body)).status_code == 429
