"""`mmrag serve` as its users meet it: a process, an address, questions, faults, SIGTERM.

The model's weights are random, so what it says is not looked at: that all of the chain answers is.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pyarrow.parquet as pq
import pytest
from fakes import photograph, png
from otlp_collector import Collector
from small_index import of_packaged_models
from tuned_llava import as_on_a_hub, save_base

from benchmarks.processes import below, command, kill, matching
from pipelines.evaluate.given import read_answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ENGINE = "vllm" if importlib.util.find_spec("vllm") else "transformers"
MMRAG = str(Path(sys.executable).with_name("mmrag"))
KEY = "a-key-for-tests"
DEPLOYMENTS = {"gateway", "retriever", "encoder", "aligner", "generator"}
_SESSION = re.compile(r"/\S*/session_[\d_-]+")


@dataclass
class Served:
    address: str
    process: subprocess.Popen[str]
    index: Path
    settings: list[str]

    def post(self, path: str, body: dict[str, Any], key: str = KEY) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.post(f"{self.address}/v1/{path}", json=body, headers=headers, timeout=120)

    def logs(self) -> Path:
        """Ray Serve's folder of this server's Ray."""
        commands = [command(one) for one in below(self.process.pid)]
        sessions = {found[0] for text in commands if (found := _SESSION.search(text))}
        (session,) = sessions
        return Path(session) / "logs" / "serve"

    def replicas(self, name: str) -> list[psutil.Process]:
        return matching(f"ServeReplica:mmrag:{name}", below(self.process.pid))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with texts, of two tenants; beside it a picture to ask about."""
    directory = tmp_path_factory.mktemp("corpus") / "index"
    pictures = [png(photograph(number, 200)) for number in range(3)]
    told = (("the red pump", "a"), ("蓝色的风扇", "a"), ("the green motor", "b"))
    of_packaged_models(directory, [(f"d{n}", pictures[n], *said) for n, said in enumerate(told)])
    (directory.parent / "p1.png").write_bytes(pictures[1])
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_on_a_hub(save_base(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector.running() as running:
        yield running


@pytest.fixture(scope="module")
def served(
    index: Path, model: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    keys = [
        {"key": KEY, "tenant": None, "name": "all"},
        {"key": "the-key-of-tenant-a", "tenant": "a", "name": "a"},
    ]
    settings = {
        "generator": {"model": str(model), "engine": ENGINE, "max_tokens": 8, "dtype": "float32"},
        "serve": {
            "api_keys": keys,
            "deadline_s": 180,  # a lost vLLM is waited for: on a busy machine it starts in a minute
            "vllm": {"kv_cache_gib": 0.25},
            "gateway": {"min_replicas": 2, "max_replicas": 2},
            "traces": {"sampling_ratio": 1, "exporter": "otlp"},
            "monitor": {"sample": 1, "file": str(index.parent / "monitor.jsonl"), "drift_window": 2},
        },
        "search": {"aligner": {"model": "tiny-aligner"}},
    }
    config = folder / "serve.yaml"
    config.write_text(json.dumps(settings), "utf-8")  # JSON is YAML
    log = (folder / "log").open("w")
    process = subprocess.Popen(
        [MMRAG, "serve", "--index", str(index), "--port", "0", "--config", str(config)],
        stderr=log,
        text=True,
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url},
    )
    try:
        yield Served(_announced(index, process, folder / "log"), process, index, ["--config", str(config)])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(120)
        finally:
            process.kill()


def _announced(index: Path, process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if (index / "serve.json").exists():
            return str(json.loads((index / "serve.json").read_bytes())["address"])
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_without_a_server_ask_answers_in_its_own_process(index: Path, model: Path) -> None:
    picture = index.parent / "p1.png"
    asked = [MMRAG, "ask", "which fan?", "--image", str(picture), "--index", str(index), "--json"]
    chosen = ["--set", f"generator.model={model}", "--set", "generator.max_tokens=4"]
    done = subprocess.run([*asked, *chosen], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["hits"][0]["document_id"] == "d1"
    assert answer["hits"][0]["image_uri"].startswith("file:")
    assert "no server of this index and these settings is up" in done.stderr


def test_a_file_of_questions_is_answered_row_by_row(index: Path, model: Path) -> None:
    """Before the server is up: both would want all of this machine."""
    questions, out = index.parent / "questions.jsonl", index.parent / "answers.parquet"
    lines = [
        {"id": "red", "query": "the red\u2028pump?"},  # no end of a line
        {
            "query": "哪个风扇？",
            "image": "p1.png",
            "language": "zh",
            "answers": ["蓝"],
            "answerable": True,
            "boxes": [],
        },
        {"query": "x", "image": "../secret.png"},
        {"query": "x", "filter": "colour == 1"},
    ]
    written = [json.dumps(line, ensure_ascii=False) for line in lines]
    questions.write_text("\n".join([*written, "{broken"]), "utf-8-sig")
    asked = [MMRAG, "ask", "--batch", str(questions), "--out", str(out), "--index", str(index), "--json"]
    chosen = {"generator.model": model, "generator.engine": "transformers", "generator.max_tokens": 4}
    sets = [word for name, value in chosen.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run([*asked, *sets], capture_output=True, text=True, timeout=300)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == {"questions": 5, "refused": 0, "failed": 3}
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == ["red", "2", "3", "4", "5"]
    assert [bool(row["error"]) for row in rows] == [False, False, True, True, True]
    assert rows[1]["hits"][0]["id"] == "d1#img-0"
    assert rows[1]["hits"][0]["text"] == "蓝色的风扇"
    assert "leaves the image root" in rows[2]["error"]
    assert rows[0]["dropped"] == {"citations": 0, "boxes": 0}
    found = read_answers(out)  # as `mmrag evaluate --answers` does
    assert found["2"].text == rows[1]["answer"].strip()
    assert "leaves the image root" in found["3"].error


def test_it_is_ready_when_healthz_says_so(served: Served) -> None:
    health = httpx.get(f"{served.address}/healthz", timeout=60)
    assert (health.status_code, health.json()["parts"]) == (200, {"retrieval": "ok", "generator": "ok"})


def test_another_server_at_its_port_is_refused_and_leaves_it_announced(served: Served) -> None:
    """Ray's proxies share ports: both would be dealt the questions."""
    port = served.address.rpartition(":")[2]
    told = (served.index / "serve.json").read_bytes()
    second = [MMRAG, "serve", "--index", str(served.index), "--port", port, *served.settings]
    done = subprocess.run(second, capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert (served.index / "serve.json").read_bytes() == told


def test_a_search_finds_and_its_picture_can_be_fetched(served: Served) -> None:
    body = served.post("search", {"query": "red pump", "k": 3}).json()
    assert body["degraded"] == []
    assert body["hits"][0]["document_id"] == "d0"
    assert {"aligner", "text_to_image"} <= body["hits"][0]["sources"].keys()
    headers = {"Authorization": f"Bearer {KEY}"}
    picture = httpx.get(served.address + body["hits"][0]["image_uri"], headers=headers)
    assert picture.headers["content-type"] == "image/jpeg"
    assert picture.headers["x-original-width"] == "200"


def test_an_answer_names_its_evidence_and_its_stages(served: Served) -> None:
    body = served.post("answer", {"query": "蓝色的风扇在哪里？"}).json()
    assert [hit["citation_id"] for hit in body["hits"]] == list(range(1, len(body["hits"]) + 1))
    assert {"retrieve", "prompt", "generate", "total"} <= set(body["timings_ms"])


def test_a_picture_can_be_asked_about(served: Served) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png(photograph(1, 120))).decode()
    body = served.post("answer", {"query": "which fan?", "image": uri}).json()
    assert "d1" in [hit["document_id"] for hit in body["hits"]]


def test_the_openai_client_reads_the_same_answer_whole_and_in_pieces(served: Served) -> None:
    client = openai.OpenAI(base_url=f"{served.address}/v1", api_key=KEY)
    [model] = client.models.list().data
    asked: Any = {
        "model": model.id,
        "messages": [{"role": "user", "content": "the green motor?"}],
        "temperature": 0,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == (whole.choices[0].message.content or "")
    assert chunks[-1].choices[0].delta.hits[0]["document_id"] == "d2"


def test_a_tenant_sees_its_own_documents_only(served: Served) -> None:
    body = served.post("search", {"query": "pump fan motor"}, "the-key-of-tenant-a").json()
    assert {hit["document_id"] for hit in body["hits"]} == {"d0", "d1"}
    [other] = [
        hit
        for hit in served.post("search", {"query": "green motor", "k": 3}).json()["hits"]
        if hit["document_id"] == "d2"
    ]
    headers = {"Authorization": "Bearer the-key-of-tenant-a"}
    assert httpx.get(served.address + other["image_uri"], headers=headers).status_code == 404
    assert served.post("search", {"query": "pump"}, "no-such-key").status_code == 401


def test_ask_uses_the_running_server(served: Served) -> None:
    asked = [MMRAG, "ask", "the red pump?", "--index", str(served.index), "--json"]
    env = os.environ | {"MMRAG_API_KEY": KEY}
    done = subprocess.run(asked, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hits"][0]["image_uri"].startswith("/v1/images/")
    assert "no server" not in done.stderr


def test_metrics_tell_how_often_a_picture_had_been_asked_about(served: Served) -> None:
    uri = "data:image/png;base64," + base64.b64encode(png(photograph(7, 120))).decode()

    def lookups() -> list[float]:
        lines = httpx.get(f"{served.address}/metrics", timeout=60).text.splitlines()
        counted = [line for line in lines if line.startswith("mmrag_picture_cache_lookups_total")]
        return [float(line.split()[-1]) for result in ("hit", "miss") for line in counted if result in line]

    served.post("search", {"image": uri})
    hits, misses = lookups()
    served.post("search", {"image": uri})
    assert lookups() == [hits + 1, misses]


def test_metrics_are_those_of_both_gateways_whichever_is_asked(served: Served) -> None:
    def counted() -> dict[str, float]:
        lines = httpx.get(f"{served.address}/metrics", timeout=60).text.splitlines()
        return {
            line.partition('replica="')[2].partition('"')[0]: float(line.split()[-1])
            for line in lines
            if line.startswith("mmrag_requests_total") and 'route="/v1/search",status="200"' in line
        }

    before = sum(counted().values())
    for _ in range(20):
        served.post("search", {"query": "red pump"})
    after = counted()
    assert len(after) == 2
    assert sum(after.values()) == before + 20


def test_an_answer_and_its_rating_meet_by_the_id_that_the_response_told(served: Served) -> None:
    request_id = served.post("answer", {"query": "the red pump?"}).headers["X-Request-Id"]
    assert served.post("feedback", {"request_id": request_id, "rating": "up"}).status_code == 204
    deadline, lines = time.monotonic() + 10, list[dict[str, Any]]()
    while time.monotonic() < deadline and len(lines) < 2:
        time.sleep(0.2)
        every = map(json.loads, (served.index.parent / "monitor.jsonl").read_text().splitlines())
        lines = [line for line in every if line["request_id"] == request_id]
    assert len(lines) == 2
    assert {key for line in lines for key in line} >= {"rating", "evidence", "answered_at", "rated_at"}


def test_questions_are_compared_with_the_index(served: Served) -> None:
    deadline, found = time.monotonic() + 60, ""
    while time.monotonic() < deadline and "mmrag_question_drift{" not in found:
        for word in ("wheel", "fan"):
            served.post("search", {"query": f"{word} at {time.monotonic()}"})
        found = httpx.get(f"{served.address}/metrics", timeout=60).text
    assert 'mmrag_question_drift{branch="text",replica=' in found
    assert 'mmrag_index_drift{collection="text",replica=' in found


def test_one_request_can_be_followed_through_every_deployment(served: Served) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "followed-1"}
    body = {"query": "a question of its own, to be followed"}
    response = httpx.post(f"{served.address}/v1/answer", json=body, headers=headers, timeout=120)
    assert response.headers["X-Request-Id"] == "followed-1"
    deadline, lines = time.monotonic() + 10, []
    while time.monotonic() < deadline and {one["deployment"] for one in lines} != DEPLOYMENTS:
        time.sleep(0.2)
        written = [
            text for file in served.logs().glob("replica_*.log") for text in file.read_text().splitlines()
        ]
        assert not [text for text in written if "to be followed" in text]
        told = [json.loads(text) for text in written if "followed-1" in text]
        for one in told:
            one["deployment"] = one["deployment"].removeprefix("mmrag_")  # the application's name
        lines = [one for one in told if "followed-1" in (one.get("request_id"), *one.get("requests", ()))]
    calls = {(one["deployment"], one.get("call", "request")) for one in lines}
    assert calls == {
        ("gateway", "request"), ("retriever", "search"), ("encoder", "encode_text"), ("aligner", "align"),
        ("generator", "generate"),
    }  # fmt: skip
    assert all(one["ms"] > 0 for one in lines)


def test_its_spans_reach_the_collector_as_one_trace(served: Served, collector: Collector) -> None:
    served.post("answer", {"query": "one more, to be traced"})
    wanted = {"POST /v1/answer", *DEPLOYMENTS - {"gateway"}}
    deadline, told = time.monotonic() + 20, set[str]()
    while time.monotonic() < deadline and not told >= wanted:
        time.sleep(0.5)
        by_trace: dict[bytes, set[str]] = {}
        for span in list(collector.spans):
            by_trace.setdefault(span.trace, set()).add(span.attributes.get("deployment") or span.name)
        told = next((names for names in by_trace.values() if "POST /v1/answer" in names), told)
    assert told >= wanted
    assert "to be traced" not in str(collector.spans)


@pytest.mark.parametrize("name", ["retriever", "encoder", "aligner", "gateway", "generator"])
def test_a_lost_replica_costs_next_to_no_answer(served: Served, name: str) -> None:
    answers: list[httpx.Response] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(served.post("answer", {"query": "red pump"}))

    with ThreadPoolExecutor(3) as pool:
        callers = [pool.submit(ask) for _ in range(3)]
        try:
            time.sleep(1)
            replicas = served.replicas(name)
            kill(replicas)
            _until_another(served, name, {replica.pid for replica in replicas})
        finally:
            over.set()
        for caller in callers:
            caller.result()  # raises what broke off
    refused = [answer for answer in answers if answer.status_code != 200]
    assert {(answer.status_code, "retry-after" in answer.headers) for answer in refused} <= {(503, True)}
    assert len(refused) <= 0.01 * len(answers)


def _until_another(served: Served, name: str, pids: set[int]) -> None:
    """Until another replica answers, for a minute and a half at most."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if any(one.pid not in pids for one in served.replicas(name)):
            response = served.post("answer", {"query": "red pump"})
            if response.status_code == 200 and not response.json()["degraded"]:
                return
        time.sleep(0.5)
    raise AssertionError(f"no other {name} within 90 s")


def test_sigterm_lets_answers_finish_and_leaves_no_process(served: Served) -> None:
    children = below(served.process.pid)
    outcomes: list[tuple[float, int]] = []
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            begun = time.monotonic()
            outcomes.append((begun, served.post("answer", {"query": "the red pump?"}).status_code))

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(ask) for _ in range(4)]
        time.sleep(3)
        let_in = time.monotonic() - 0.1  # what was asked since then may have come too late
        ending.set()
        served.process.send_signal(signal.SIGTERM)
        for caller in callers:
            caller.result()  # raises what broke off
    before = [status for begun, status in outcomes if begun < let_in]
    assert len(before) > len(callers)
    assert set(before) == {200}
    assert {status for _, status in outcomes} <= {200, 503}
    assert served.process.wait(120) == 0
    _, alive = psutil.wait_procs(children, timeout=20)
    mine = [one for one in alive if "milvus" not in command(one)]  # they go when idle
    assert mine == []
    assert not (served.index / "serve.json").exists()
