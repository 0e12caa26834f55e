"""The endpoints of the contract: what a caller gets, and how a question reaches the backend."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from dataclasses import replace

import httpx
import pytest
from fakes import picture
from gateway_fakes import (
    ANSWER,
    CONTENT,
    HIT,
    ScriptedBackend,
    app_of,
    bearer,
    client_of,
    data_uri,
    keys,
)
from PIL import Image

from pipelines.core.errors import GeneratorUnavailable, SpaceMismatch, StoreUnavailable
from pipelines.core.filters import Comparison
from pipelines.core.prompts import Turn
from pipelines.core.types import PlacedBox, SearchResult, Usage
from pipelines.serve.backend import Health
from pipelines.serve.metrics import Metrics, exposition
from pipelines.serve.protection import Admission

pytestmark = pytest.mark.anyio


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def client(backend: ScriptedBackend) -> httpx.AsyncClient:
    return client_of(app_of(backend))


async def test_a_search_gives_the_object_of_search_json(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/search", json={"query": "heat sink"})).json()
    assert list(found) == ["hits", "degraded"]
    assert found["hits"][0] == {
        "id": "a#txt-0",
        "document_id": "a",
        "kind": "image",
        "score": 0.5,
        "text": "散热器 heat sink",
        "source": "sink.jsonl",
        "image_uri": f"/v1/images/{CONTENT}",
        "metadata": {"year": 2021},
        "citation_id": 1,
        "sources": {"text": 1},
        "lines": [],
        "scores": {},
        "tenant": "",
    }


async def test_a_query_reaches_the_backend_as_it_was_asked(
    client: httpx.AsyncClient, backend: ScriptedBackend
) -> None:
    body = {
        "query": "孔距",
        "image": data_uri(picture()),
        "mode": "visually_similar",
        "k": 7,
        "filter": "year == 1",
    }
    assert (await client.post("/v1/search", json=body)).status_code == 200
    (query,) = backend.queries
    assert (query.text, query.image, query.mode, query.k) == ("孔距", picture(), "visually_similar", 7)
    assert query.where == Comparison("year", "==", 1)


async def test_an_answer_gives_the_object_of_ask_json(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/answer", json={"query": "How far?"})).json()
    assert found["answer"] == "40 mm apart [1]."
    assert found["citations"] == [{"n": 1, "hit_id": "sink#img-0"}]
    assert found["boxes"] == [{"image": 1, "xyxy": [100.0, 100.0, 300.0, 200.0], "label": "hole"}]
    assert found["hits"][0]["image_uri"] == f"/v1/images/{CONTENT}"
    assert found["timings_ms"] == {"retrieve": 12.0, "generate": 30.0, "total": 45.0}
    assert "annotated" not in found


async def test_no_address_of_the_servers_own_leaves_it(client: httpx.AsyncClient) -> None:
    text = (await client.post("/v1/answer", json={"query": "How far?"})).text
    assert "somebody" not in text
    assert "file:" not in text
    assert "es.internal" not in text
    assert json.loads(text)["degraded"] == ["lexical: …: search failed; is Elasticsearch running there?"]


async def test_history_alternates_and_holds_no_picture_marks(backend: ScriptedBackend) -> None:
    history = [
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "A <image>"},
        {"role": "user", "content": "B"},
        {"role": "assistant", "content": "C"},
    ]
    async with client_of(app_of(backend)) as client:
        await client.post("/v1/answer", json={"query": "and?", "history": history})
    assert backend.questions[0].history == (Turn("user", "A  \nB"), Turn("assistant", "C"))


async def test_of_a_long_history_the_last_turns_are_read(backend: ScriptedBackend) -> None:
    history = [{"role": role, "content": str(n)} for n in range(9) for role in ("user", "assistant")]
    async with client_of(app_of(backend, max_history_turns=3)) as client:
        await client.post("/v1/answer", json={"query": "and?", "history": history})
    assert backend.questions[0].history == (Turn("user", "8"), Turn("assistant", "8"))


async def test_boxes_are_drawn_where_they_lie_in_the_original(client: httpx.AsyncClient) -> None:
    found = (await client.post("/v1/answer", json={"query": "How far?", "annotate": True})).json()
    (annotated,) = found["annotated"]
    assert annotated["image"] == 1
    image = Image.open(io.BytesIO(base64.b64decode(annotated["data_uri"].partition(",")[2])))
    assert image.size == (40, 40)  # the preview; the original has ten times as many pixels a side
    red = image.convert("RGB").getpixel((10, 15))
    blue = image.convert("RGB").getpixel((20, 35))
    assert red[0] > 150
    assert blue[2] > 200
    assert blue[0] < 60


async def test_boxes_are_drawn_on_the_questions_own_picture(backend: ScriptedBackend) -> None:
    backend.result = replace(ANSWER, boxes=(PlacedBox("query", (2, 2, 5, 5), ""),))
    async with client_of(app_of(backend)) as client:
        body = {"query": "where?", "image": data_uri(picture(side=8)), "annotate": True}
        found = (await client.post("/v1/answer", json=body)).json()
    assert [annotated["image"] for annotated in found["annotated"]] == ["query"]


async def test_a_preview_is_kept_by_the_browser_and_tells_the_originals_size(
    client: httpx.AsyncClient,
) -> None:
    found = await client.get(f"/v1/images/{CONTENT}")
    assert found.headers["Content-Type"] == "image/jpeg"
    assert found.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert found.headers["Vary"] == "Authorization"
    assert (found.headers["X-Original-Width"], found.headers["X-Original-Height"]) == ("400", "400")
    assert Image.open(io.BytesIO(found.content)).size == (40, 40)


@pytest.mark.parametrize(("content", "status"), [("ef" * 32, 404), ("AB" * 32, 400), ("..%2f..", 404)])
async def test_a_picture_that_is_not_there_is_not_found(
    client: httpx.AsyncClient, content: str, status: int
) -> None:
    found = await client.get(f"/v1/images/{content}")
    assert found.status_code == status
    assert set(found.json()["error"]) == {"message", "type"}


async def test_health_says_what_is_missing(backend: ScriptedBackend, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok", "parts": {"text": "ok"}}
    backend.healthy = Health(True, {"text": "ok", "lexical": "http://es.internal:9200: no answer"})
    found = await client.get("/healthz")
    assert (found.status_code, found.json()["status"]) == (200, "degraded")
    assert found.json()["parts"]["lexical"] == "…: no answer"
    backend.healthy = Health(False, {"generator": "starting"})
    found = await client.get("/healthz")
    assert (found.status_code, found.json()["status"]) == (503, "unavailable")


async def test_health_needs_no_key(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_metrics_count_what_was_answered(client: httpx.AsyncClient, backend: ScriptedBackend) -> None:
    backend.result = replace(backend.result, usage=Usage(312, 40, cut=True))
    await client.post("/v1/answer", json={"query": "How far?"})
    await client.get(f"/v1/images/{CONTENT}")
    await client.get("/no/such/route")
    text = (await client.get("/metrics")).text
    assert 'mmrag_requests_total{route="/v1/answer",status="200"} 1.0' in text
    assert 'mmrag_requests_total{route="/v1/images/{content}",status="200"} 1.0' in text
    assert 'mmrag_requests_total{route="other",status="404"} 1.0' in text
    assert 'mmrag_stage_seconds_count{stage="retrieve"} 1.0' in text
    assert 'mmrag_degraded_total{part="lexical"} 1.0' in text
    assert 'mmrag_dropped_total{kind="citations"} 2.0' in text
    assert 'mmrag_tokens_total{kind="prompt"} 312.0' in text
    assert 'mmrag_tokens_total{kind="completion"} 40.0' in text
    assert "mmrag_cut_answers_total 1.0" in text
    assert "mmrag_in_flight 0.0" in text


async def test_two_apps_count_apart(backend: ScriptedBackend) -> None:
    first, second = app_of(backend), app_of(backend)
    async with client_of(first) as client:
        await client.post("/v1/answer", json={"query": "How far?"})
    async with client_of(second) as client:
        assert "mmrag_stage_seconds_count" not in (await client.get("/metrics")).text


async def test_what_is_rare_is_told_before_the_first(client: httpx.AsyncClient) -> None:
    """Prometheus' rate() sees a counter grow, not that it is there."""
    text = (await client.get("/metrics")).text
    for why in ("busy", "deadline", "rate"):
        assert f'mmrag_shed_total{{why="{why}"}} 0.0' in text
    for rating in ("up", "down"):
        assert f'mmrag_ratings_total{{rating="{rating}"}} 0.0' in text


def test_samples_of_several_replicas_are_told_apart() -> None:
    two = [Metrics(Admission(1, 1, 1)) for _ in range(2)]
    two[0].shed("busy")
    two[1].shed("busy")
    two[1].request("/v1/search", 200, 0.3)
    text = exposition({"one": two[0].families(), "two": two[1].families()}).decode()
    assert text.count("# TYPE mmrag_shed_total counter") == 1
    assert 'mmrag_shed_total{replica="one",why="busy"} 1.0' in text
    assert 'mmrag_shed_total{replica="two",why="busy"} 1.0' in text
    assert 'mmrag_request_seconds_bucket{le="0.5",replica="two",route="/v1/search"} 1.0' in text
    assert 'mmrag_in_flight{replica="one"} 0.0' in text


@pytest.mark.parametrize("failure", [StoreUnavailable, GeneratorUnavailable])
@pytest.mark.parametrize("path", ["/v1/search", "/v1/answer"])
async def test_what_does_not_answer_is_a_503_that_names_it(
    backend: ScriptedBackend, client: httpx.AsyncClient, failure: type[Exception], path: str
) -> None:
    backend.failure = failure("http://10.0.0.7:19530: search failed; is Milvus running there? (refused)")
    found = await client.post(path, json={"query": "q"})
    assert found.status_code == 503
    assert found.headers["Retry-After"] == "1"
    assert found.json()["error"] == {
        "message": "…: search failed; is Milvus running there?",
        "type": "unavailable_error",
    }


async def test_an_index_of_other_models_asks_for_a_restart_and_tells_no_settings(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    backend.failure = SpaceMismatch("model: index lite, config /srv/models/secret-clip")
    response = await client.post("/v1/search", json={"query": "heat sink"})
    assert response.status_code == 503
    assert "restarted" in response.json()["error"]["message"]
    assert "secret" not in response.text
    assert "Retry-After" not in response.headers


async def test_an_unexpected_failure_is_logged_and_not_told(
    backend: ScriptedBackend, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    backend.failure = RuntimeError("the password is hunter2")
    found = await client.post("/v1/search", json={"query": "q"}, headers={"X-Request-Id": "r-1"})
    assert found.status_code == 500
    assert "hunter2" not in found.text
    assert found.json()["error"]["type"] == "server_error"
    assert found.headers["X-Request-Id"] == "r-1"
    assert "request r-1 failed" in caplog.text
    assert "hunter2" in caplog.text


async def test_each_request_leaves_one_line_without_its_question_or_key(
    backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipelines.serve")
    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        headers = {"Authorization": f"Bearer {bearer('anna')}", "X-Request-Id": "r-2"}
        await client.post("/v1/search", json={"query": "a private question"}, headers=headers)
    (record,) = caplog.records
    told = {"request": "r-2", "method": "POST", "route": "/v1/search", "status": 200, "caller": "anna"}
    assert vars(record) | told == vars(record)
    assert re.fullmatch(
        r"request request=r-2 method=POST route=/v1/search status=200 ms=[\d.]+ caller=anna", record.message
    )


async def test_a_request_id_that_is_no_id_is_not_echoed(client: httpx.AsyncClient) -> None:
    found = await client.get("/healthz", headers={"X-Request-Id": "x" * 65})
    assert len(found.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/models", "/nothing", "/v1/nothing"])
async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'self'; img-src 'self' data: blob:")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


async def test_the_page_is_served_with_its_files(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Type"].startswith("text/html")
    assert (await client.get("/page.js")).headers["Content-Type"].startswith("text/javascript")
    assert (await client.get("/gateway.py")).status_code == 404
    assert (await client.get("/%2e%2e%2fgateway.py")).status_code == 404


async def test_without_the_page_there_is_none(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend, page=False)) as client:
        assert (await client.get("/")).status_code == 404


async def test_a_route_knows_its_methods(client: httpx.AsyncClient) -> None:
    found = await client.get("/v1/search")
    assert (found.status_code, found.headers["Allow"]) == (405, "POST")
    assert set(found.json()["error"]) == {"message", "type"}


async def test_other_sites_may_ask_only_where_they_are_named(backend: ScriptedBackend) -> None:
    preflight = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
    settings = {"cors_origins": ["https://friend.example"], "api_keys": keys(anna="a")}
    async with client_of(app_of(backend, **settings)) as client:
        found = await client.options("/v1/answer", headers=preflight)
        assert found.headers["Access-Control-Allow-Origin"] == "https://friend.example"
        other = await client.options("/v1/answer", headers=preflight | {"Origin": "https://foe.example"})
        assert "Access-Control-Allow-Origin" not in other.headers
    async with client_of(app_of(backend)) as client:
        assert "Access-Control-Allow-Origin" not in (await client.get("/healthz", headers=preflight)).headers


async def test_the_document_names_every_status_and_no_422(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/search",
        "/v1/answer",
        "/v1/chat/completions",
        "/v1/feedback",
        "/v1/models",
        "/v1/images/{content}",
        "/healthz",
        "/metrics",
    }
    statuses = set(document["paths"]["/v1/chat/completions"]["post"]["responses"])
    assert statuses == {"200", "400", "404", "408", "413", "421", "429", "503"}
    statuses = set(document["paths"]["/v1/feedback"]["post"]["responses"])
    assert statuses == {"204", "400", "408", "413", "421", "429"}
    assert document["components"]["schemas"]["FeedbackRequest"]["examples"]
    assert "422" not in json.dumps(document["paths"])
    assert "散热器" in json.dumps(document["components"]["schemas"]["SearchRequest"], ensure_ascii=False)
    assert "securitySchemes" not in document["components"]


async def test_the_document_asks_for_a_key_where_one_is_wanted(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        document = (await client.get("/openapi.json")).json()
    assert "401" in document["paths"]["/v1/search"]["post"]["responses"]
    assert document["paths"]["/v1/search"]["post"]["security"] == [{"HTTPBearer": []}]


async def test_what_json_cannot_hold_does_not_fail_an_answer(
    backend: ScriptedBackend, client: httpx.AsyncClient
) -> None:
    odd = replace(HIT, text="half \ud800", metadata={"weight": float("nan"), "name": "x"})

    async def search(query: object) -> SearchResult:
        return SearchResult((odd,))

    backend.search = search  # type: ignore[method-assign]
    (hit,) = (await client.post("/v1/search", json={"query": "q"})).json()["hits"]
    assert hit["metadata"] == {"weight": None, "name": "x"}
    assert hit["text"] == "half ?"
