"""Keys, tenants, rates, admission, and work that ends when nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from gateway_fakes import (
    CONTENT,
    OTHERS_CONTENT,
    PARTS,
    ScriptedBackend,
    app_of,
    bearer,
    client_of,
    keys,
    until,
)
from pydantic import ValidationError
from starlette.types import ASGIApp, Message

from pipelines.core.filters import Comparison, matches, parse
from pipelines.core.tenants import scoped
from pipelines.serve.config import ServeConfig
from pipelines.serve.faults import DeadlinePassed, Overloaded, TooManyRequests
from pipelines.serve.protection import (
    EVERYONE,
    Admission,
    Caller,
    RateLimit,
    limited_as,
    patience,
)
from pipelines.serve.shell import Guarded

pytestmark = pytest.mark.anyio

ASK = {"messages": [{"role": "user", "content": "q"}]}
CALLS = [
    ("/v1/search", {"query": "q"}),
    ("/v1/answer", {"query": "q"}),
    ("/v1/chat/completions", ASK),
    ("/v1/chat/completions", ASK | {"stream": True}),
]


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


def authorized(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer(name)}"}


LOOPBACK = ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:8000"]
FOREIGN = [
    "rebound.example",
    "rebound.example:8000",
    "localhost.rebound.example",
    "127.0.0.1.rebound.example",
    "rebound.example@localhost",
    "localhost, rebound.example",
    "192.168.0.7",
    "0.0.0.0",
    "[::2]",
    "",
]
ROUTES = ["/", "/healthz", "/metrics", "/openapi.json", "/v1/models", "/v1/nothing"]


async def status_of(backend: ScriptedBackend, called: str, path: str = "/healthz", **settings: Any) -> int:
    async with client_of(app_of(backend, **settings)) as client:
        found = await client.get(path, headers={"Host": called})
    if found.status_code == 421:
        assert found.json()["error"]["type"] == "misdirected_request"
        assert "serve.allowed_hosts" in found.json()["error"]["message"]
    return found.status_code


@pytest.mark.parametrize("path", ROUTES)
async def test_a_page_whose_name_means_loopback_gets_nothing(backend: ScriptedBackend, path: str) -> None:
    assert await status_of(backend, "rebound.example", path) == 421


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_question_by_a_foreign_name_reaches_nothing(
    backend: ScriptedBackend, path: str, body: dict[str, Any]
) -> None:
    async with client_of(app_of(backend, cors_origins=["*"])) as client:
        found = await client.post(path, json=body, headers={"Host": "rebound.example"})
    assert found.status_code == 421
    assert not backend.queries
    assert not backend.questions


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
async def test_without_keys_loopback_answers_to_loopbacks_names_only(
    backend: ScriptedBackend, bound: str
) -> None:
    assert {await status_of(backend, host, host=bound) for host in LOOPBACK} == {200}
    assert {await status_of(backend, host, host=bound) for host in FOREIGN} == {421}


@pytest.mark.parametrize(
    "settings", [{"api_keys": keys(anna="a")}, {"host": "0.0.0.0"}, {"host": "192.168.0.7"}, {"host": "::"}]
)
async def test_with_keys_or_for_other_machines_every_name_will_do(
    backend: ScriptedBackend, settings: dict[str, Any]
) -> None:
    assert {await status_of(backend, host, **settings) for host in FOREIGN + LOOPBACK} == {200}


@pytest.mark.parametrize("settings", [{"api_keys": keys(anna="a"), "host": "::"}, {"host": "0.0.0.0"}])
async def test_names_that_are_set_are_the_only_ones(
    backend: ScriptedBackend, settings: dict[str, Any]
) -> None:
    settings = settings | {"allowed_hosts": ["KB.example", "[2001:db8::1]"]}
    for host in ("kb.example", "Kb.Example:443", "[2001:DB8::1]:8000"):
        assert await status_of(backend, host, **settings) == 200
    for host in (*FOREIGN, *LOOPBACK, "www.kb.example", "2001:db8::1"):
        assert await status_of(backend, host, **settings) == 421


@pytest.mark.parametrize("settings", [{}, {"api_keys": keys(anna="a")}], ids=["open", "with keys"])
async def test_names_that_are_set_stand_beside_loopbacks(
    backend: ScriptedBackend, settings: dict[str, Any]
) -> None:
    settings = settings | {"allowed_hosts": ["kb.example"]}
    for host in ("kb.example", *LOOPBACK):
        assert await status_of(backend, host, **settings) == 200
    assert await status_of(backend, "rebound.example", **settings) == 421


@pytest.mark.parametrize("name", ["", "*", "https://kb.example", "kb.example:8000", "::1", "kb example"])
def test_a_name_that_no_host_has_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="no host's name"):
        ServeConfig(allowed_hosts=(name,))


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong-secret-key", f"Basic {bearer('anna')}", bearer("anna")],
)
@pytest.mark.parametrize("path", ["/v1/models", f"/v1/images/{CONTENT}", "/v1/nothing"])
async def test_without_a_known_key_nothing_is_told(
    backend: ScriptedBackend, authorization: str | None, path: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        found = await client.get(path, headers=headers)
    assert found.status_code == 401
    assert found.headers["WWW-Authenticate"] == "Bearer"
    assert found.json()["error"]["type"] == "authentication_error"


async def test_a_key_is_asked_for_before_the_body_is_read(backend: ScriptedBackend) -> None:
    read = False

    async def body() -> Any:
        nonlocal read
        read = True
        yield b"{}"

    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        assert (await client.post("/v1/search", content=body())).status_code == 401
    assert not read


@pytest.mark.parametrize(
    "where",
    [
        None,
        'tenant == "b"',
        'tenant == "a" or tenant == "b"',
        'not tenant == "a"',
        "year >= 0 or year < 0",
        'tenant in ["a", "b"]',
        'not (tenant == "a" and tenant == "b")',
    ],
)
async def test_no_filter_leaves_its_tenant(backend: ScriptedBackend, where: str | None) -> None:
    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        found = await client.post(
            "/v1/search", json={"query": "q", "filter": where}, headers=authorized("anna")
        )
    assert found.status_code == 200
    assert {hit["document_id"] for hit in found.json()["hits"]} <= {"a"}


async def test_words_that_close_a_filter_are_no_filter(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend, api_keys=keys(anna="a"))) as client:
        for where in ('tenant == "b" or true', 'year == 1) or (tenant == "b"'):
            body = {"query": "q", "filter": where}
            assert (await client.post("/v1/search", json=body, headers=authorized("anna"))).status_code == 400


@pytest.mark.parametrize("where", ["nope == 1", 'year == "2021"', "yaer >= 2000", 'year != "x"'])
async def test_a_filter_does_not_tell_a_tenant_what_fields_there_are(
    backend: ScriptedBackend, where: str
) -> None:
    body = {"query": "q", "filter": where}
    async with client_of(app_of(backend, api_keys=keys(anna="a", root=None))) as client:
        for endpoint in ("search", "answer"):
            found = await client.post(f"/v1/{endpoint}", json=body, headers=authorized("anna"))
            assert found.status_code == 200
        asked = [*backend.queries, *(question.query for question in backend.questions)]
        assert [any(matches(one.where, part) for part in PARTS) for one in asked] == [False, False]
        told = await client.post("/v1/search", json=body, headers=authorized("root"))
    assert told.status_code == 400
    assert "year" in told.json()["error"]["message"]


async def test_under_a_prefix_the_guard_looks_at_the_route(backend: ScriptedBackend) -> None:
    """Ray Serve leaves the path whole and says in `root_path` what of it is the prefix."""
    app = app_of(backend, api_keys=keys(anna="a"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path="/kb")
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost/kb") as client:
        for headers, status in (({}, 401), (authorized("anna"), 200)):
            assert (await client.get("/v1/models", headers=headers)).status_code == status
            found = await client.post("/v1/search", json={"query": "q"}, headers=headers)
            assert found.status_code == status
        assert (await client.get("/healthz")).status_code == 200


async def test_no_route_answers_whom_the_guard_has_not_seen(backend: ScriptedBackend) -> None:
    app = app_of(backend)
    app.user_middleware = [one for one in app.user_middleware if one.cls is not Guarded]
    async with client_of(app) as client:
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.post("/v1/search", json={"query": "q"})).status_code == 401
        assert (await client.get("/healthz")).status_code == 200


async def test_a_key_of_all_tenants_sees_all(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend, api_keys=keys(root=None))) as client:
        found = await client.post("/v1/search", json={"query": "q"}, headers=authorized("root"))
    assert {hit["document_id"] for hit in found.json()["hits"]} == {"a", "b"}


async def test_a_picture_is_seen_by_its_tenant_only(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend, api_keys=keys(anna="a")), headers=authorized("anna")) as client:
        assert (await client.get(f"/v1/images/{CONTENT}")).status_code == 200
        assert (await client.get(f"/v1/images/{OTHERS_CONTENT}")).status_code == 404


def test_the_empty_tenant_is_a_tenant() -> None:
    assert scoped(None, "") == Comparison("tenant", "==", "")
    assert scoped(parse("year == 1"), None) == Comparison("year", "==", 1)


async def test_who_asks_too_often_is_told_when_to_come_back(backend: ScriptedBackend) -> None:
    settings = {"api_keys": keys(anna="a", bert="b"), "rate_per_minute": 2}
    async with client_of(app_of(backend, **settings)) as client:
        anna, bert = authorized("anna"), authorized("bert")
        statuses = [
            (await client.post("/v1/search", json={"query": "q"}, headers=anna)).status_code for _ in range(3)
        ]
        assert statuses == [200, 200, 429]
        late = await client.post("/v1/search", json={"query": "q"}, headers=anna)
        assert 1 <= int(late.headers["Retry-After"]) <= 30
        assert late.json()["error"]["type"] == "rate_limit_error"
        assert (await client.get("/v1/models", headers=anna)).status_code == 200
        assert (await client.post("/v1/search", json={"query": "q"}, headers=bert)).status_code == 200
        assert 'mmrag_shed_total{why="rate"} 2.0' in (await client.get("/metrics")).text


def test_a_bucket_fills_with_time() -> None:
    now = 0.0
    rate = RateLimit(60, clock=lambda: now)
    for _ in range(60):
        rate.take("a")
    with pytest.raises(TooManyRequests) as caught:
        rate.take("a")
    assert caught.value.retry_after_s == pytest.approx(1.0)
    now = 1.0
    rate.take("a")
    with pytest.raises(TooManyRequests):
        rate.take("a")


def test_a_rate_limit_forgets_rather_than_grows() -> None:
    rate = RateLimit(1, clock=lambda: 0.0, most_callers=2)
    for who in ("a", "b", "c"):
        rate.take(who)
    rate.take("a")  # forgotten, so it starts anew
    with pytest.raises(TooManyRequests):
        rate.take("c")


def test_a_caller_without_a_key_is_its_address() -> None:
    assert limited_as(EVERYONE, "203.0.113.9") == "203.0.113.9"
    assert limited_as(EVERYONE, "2001:db8::1") == limited_as(EVERYONE, "2001:db8::ffff")
    assert limited_as(EVERYONE, "2001:db8::1") != limited_as(EVERYONE, "2001:db8:0:1::1")
    assert limited_as(Caller("anna", "a"), "203.0.113.9") == "key anna"
    assert limited_as(EVERYONE, "") == ""


async def test_who_finds_the_queue_full_is_sent_away() -> None:
    admission = Admission(concurrent=1, queued=1, retry_after_s=3)
    leave = asyncio.Event()

    async def work() -> None:
        async with admission.slot():
            await leave.wait()

    first, second = asyncio.create_task(work()), asyncio.create_task(work())
    await until(lambda: (admission.working, admission.waiting) == (1, 1))
    with pytest.raises(Overloaded) as caught:
        await work()
    assert caught.value.retry_after_s == 3
    second.cancel()
    await asyncio.wait([second])
    assert admission.waiting == 0
    leave.set()
    await first
    await work()
    assert (admission.working, admission.waiting) == (0, 0)


async def test_who_was_let_in_finishes_and_nobody_else_is_once_it_closes() -> None:
    admission = Admission(concurrent=1, queued=1, retry_after_s=3)
    leave = asyncio.Event()

    async def work() -> None:
        async with admission.slot():
            await leave.wait()

    let_in = [asyncio.create_task(work()) for _ in range(2)]
    await until(lambda: (admission.working, admission.waiting) == (1, 1))
    closing = asyncio.create_task(admission.close())
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded, match="is ending"):
        await work()
    assert not closing.done()
    leave.set()
    await asyncio.gather(*let_in, closing)


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_full_server_sheds_and_says_when_to_ask_again(
    backend: ScriptedBackend, path: str, body: dict[str, Any]
) -> None:
    backend.holding = True
    app = app_of(backend, max_concurrent=1, max_queued=0, retry_after_s=2, deadline_s=5)
    async with client_of(app) as client:
        first = asyncio.create_task(client.post(path, json=body))
        await until(lambda: backend.waiting == 1)
        found = await client.post(path, json=body)
        assert (found.status_code, found.headers["Retry-After"]) == (503, "2")
        assert found.json()["error"]["type"] == "overloaded_error"
        text = (await client.get("/metrics")).text
        assert "mmrag_in_flight 1.0" in text
        assert 'mmrag_shed_total{why="busy"} 1.0' in text
        first.cancel()
        await asyncio.wait([first])
        assert "mmrag_in_flight 0.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_at_the_deadline_the_work_is_cancelled(
    backend: ScriptedBackend, path: str, body: dict[str, Any]
) -> None:
    backend.holding = True
    async with client_of(app_of(backend, deadline_s=0.05)) as client:
        found = await client.post(path, json=body)
    assert (found.status_code, found.headers["Retry-After"]) == (503, "1")
    assert found.json()["error"]["message"] == "no answer within 0.05 s: ask again"
    assert (backend.waiting, backend.cancelled) == (0, 1)


async def test_a_stream_ends_at_the_deadline_with_an_error(backend: ScriptedBackend) -> None:
    backend.holding = backend.fails_after_a_word = True
    async with client_of(app_of(backend, deadline_s=0.1)) as client:
        found = await client.post("/v1/chat/completions", json=ASK | {"stream": True})
    events = [json.loads(event.removeprefix("data: ")) for event in found.text.split("\n\n")[:-1]]
    assert events[1]["choices"][0]["delta"]["content"] == "40 mm "
    assert events[-1]["error"]["type"] == "timeout_error"
    assert (backend.waiting, backend.cancelled) == (0, 1)


async def test_the_deadline_holds_while_waiting_for_a_place(backend: ScriptedBackend) -> None:
    backend.holding = True
    async with client_of(app_of(backend, max_concurrent=1, deadline_s=0.2)) as client:
        both = [client.post("/v1/search", json={"query": "q"}) for _ in range(2)]
        assert [found.status_code for found in await asyncio.gather(*both)] == [503, 503]
    assert len(backend.queries) <= 2
    assert backend.waiting == 0


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_a_client_that_goes_away_ends_the_work(
    backend: ScriptedBackend, path: str, body: dict[str, Any]
) -> None:
    backend.holding = True
    leave = asyncio.Event()
    request = asyncio.create_task(_asked(app_of(backend), path, body, leave))
    await until(lambda: backend.waiting == 1)
    leave.set()
    await asyncio.wait_for(request, 2)
    assert (backend.waiting, backend.cancelled) == (0, 1)


async def _asked(app: ASGIApp, path: str, body: dict[str, Any], leave: asyncio.Event) -> list[Message]:
    """One request as a server makes it; the client goes away at `leave`."""
    data = json.dumps(body).encode()
    pending: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if pending:
            return pending.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(data)),
        ],
        "client": ("203.0.113.9", 1),
        "server": ("server", 80),
    }
    await app(scope, receive, send)
    return sent


async def test_patience_tells_its_own_deadline_from_the_works() -> None:
    never = asyncio.Event()

    async def receive() -> Message:
        await never.wait()
        raise AssertionError

    with pytest.raises(TimeoutError):
        async with patience(receive, 5, 1):
            raise TimeoutError
    with pytest.raises(DeadlinePassed):
        async with patience(receive, 0.01, 1):
            await never.wait()


@pytest.mark.parametrize(
    "wrong",
    [
        [{"key": "short", "tenant": "a", "name": "n"}],
        [{"key": "has a blank in it", "tenant": "a", "name": "n"}],
        [{"key": "long-enough-key", "name": "n"}],
        [*keys(anna="a"), {"key": bearer("anna"), "tenant": "b", "name": "other"}],
        [*keys(anna="a"), {"key": "another-key", "tenant": "b", "name": "anna"}],
    ],
)
def test_keys_that_would_surprise_are_refused(wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(ValidationError):
        ServeConfig.model_validate({"api_keys": wrong})


def test_a_config_does_not_show_its_keys() -> None:
    assert bearer("anna") not in repr(ServeConfig.model_validate({"api_keys": keys(anna="a")}))


async def test_a_rate_by_address_is_refused_where_a_proxy_hides_addresses() -> None:
    hidden: dict[str, Any] = {"http_proxy": "haproxy", "rate_per_minute": 60}
    with pytest.raises(ValidationError, match="rate_per_minute needs api_keys"):
        ServeConfig.model_validate(hidden)
    assert ServeConfig.model_validate(hidden | {"api_keys": keys(anna="a")}).rate_per_minute == 60
