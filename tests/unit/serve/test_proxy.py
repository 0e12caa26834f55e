"""Requests whose gateway is lost while it works on them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from pipelines.serve import proxy

pytestmark = pytest.mark.anyio


class Gateways:
    """Those that are lost return without a word, as Ray Serve's proxy does then; the next one echoes."""

    def __init__(self, lost: int, reads: bool = True) -> None:
        self.lost, self.reads = lost, reads
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = [*scope["headers"], (b"x-request-id", b"r1")]
        self.asked.append(scope["path"])
        scope["path"] = "/changed"
        body, more = b"", self.reads
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(self.asked) <= self.lost:
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


async def pieces() -> AsyncIterator[bytes]:
    for piece in (b"one ", b"two ", b"three"):
        yield piece


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    (layer,) = proxy.middlewares()
    return httpx.AsyncClient(transport=httpx.ASGITransport(layer.cls(app)), base_url="http://here")


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_another_gateway_gets_the_whole_request(
    lost: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = logging.Logger(proxy.log.name)  # by nobody else: Ray, where imported, sets up its own
    heard.addHandler(caplog.handler)
    monkeypatch.setattr(proxy, "log", heard)
    gateways = Gateways(lost)
    async with client_of(gateways) as client:
        response = await client.post("/v1/answer", content=pieces())
    assert (response.status_code, response.text) == (200, "one two three")
    assert gateways.asked == ["/v1/answer"] * (lost + 1)
    told = [record for record in caplog.records if "request r1 goes to another" in record.getMessage()]
    assert [record.name for record in told] == ["ray.serve"] * lost


async def test_a_body_that_was_not_read_is_read_by_the_next_one() -> None:
    gateways = Gateways(1, reads=False)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        gateways.reads = bool(gateways.asked)
        await gateways(scope, receive, send)

    async with client_of(app) as client:
        assert (await client.post("/", content=b"all of it")).text == "all of it"


async def test_when_all_are_lost_the_caller_is_told_to_come_again() -> None:
    gateways = Gateways(99)
    async with client_of(gateways) as client:
        response = await client.post("/v1/answer", content=b"q")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert response.json()["error"]["type"] == "unavailable_error"
    assert response.headers["X-Request-Id"] == "r1"
    assert len(gateways.asked) == 3


async def test_a_body_too_large_to_keep_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_KEPT_BYTES", 8)
    gateways = Gateways(1)
    async with client_of(gateways) as client:
        response = await client.post("/v1/answer", content=pieces())
        assert response.status_code == 503
        assert len(gateways.asked) == 1
        assert (await client.post("/v1/answer", content=pieces())).text == "one two three"


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})

    sent = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await proxy.AskedAgain(app)({"type": "http", "headers": []}, receive, send)  # type: ignore[arg-type]
    assert asked == 1
    assert len(sent) == 2


async def test_nothing_is_asked_for_a_caller_that_is_gone() -> None:
    asked = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        while (await receive())["type"] != "http.disconnect":
            pass

    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"q", "more_body": False}]

    async def receive() -> dict[str, object]:
        return messages.pop()

    async def send(message: object) -> None:
        raise AssertionError("nobody listens")

    await proxy.AskedAgain(app)({"type": "http", "headers": []}, receive, send)  # type: ignore[arg-type]
    assert asked == 1
