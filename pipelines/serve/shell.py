"""What surrounds every request: its id, log line, metrics and headers; then host, key, rate and size. Pure
ASGI.

Knows no route but by its prefix. Nothing that a caller said is logged.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve import faults
from pipelines.serve.api import REQUEST_ID
from pipelines.serve.config import ServeConfig
from pipelines.serve.faults import Refusal, TooLarge, TooManyRequests, Unauthorized, UploadTooSlow
from pipelines.serve.logs import line
from pipelines.serve.metrics import Metrics
from pipelines.serve.protection import EVERYONE, Caller, Hosts, Keyring, RateLimit, limited_as

log = logging.getLogger(__name__)

GUARDED: Final = "/v1/"
_REQUEST_ID = re.compile(REQUEST_ID.encode())
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def caller_of(scope: Scope) -> Caller:
    """Whom the guard let in. Raises Unauthorized where it did not run."""
    found = scope.get("state", {}).get("caller")
    if not isinstance(found, Caller):
        raise Unauthorized("this request was not checked for an API key")
    return found


class Observed:
    """Gives each request an id, security headers, one log line and its place in the metrics.

    An unexpected exception is logged in full and told as nothing but a 500.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, adds_id: bool) -> None:
        self._app, self._metrics, self._adds_id = app, metrics, adds_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        start, status = time.perf_counter(), 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                if self._adds_id:
                    headers["X-Request-Id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # the answer has begun: the server must break it off
            await faults.response(faults.INTERNAL)(scope, receive, send_marked)
        finally:
            self._told(scope, request_id, status, time.perf_counter() - start)

    def _told(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = str(getattr(scope.get("route"), "path", "other"))
        caller = scope["state"].get("caller", EVERYONE)
        self._metrics.request(route, status, seconds)
        line(
            log,
            "request",
            request=request_id,
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            caller=caller.name,
        )


class Addressed:
    """Lets requests pass whose Host is a name of this server.

    Starlette's TrustedHostMiddleware knows no ranges of addresses, and does not refuse in our errors' form.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._hosts.check(_header(scope, b"host"))
            except Refusal as refusal:
                await faults.response(faults.fault(refusal, 1))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Guarded:
    """Under /v1/: who asks, whether too often, and a body of bounded size, read before anything else."""

    def __init__(self, app: ASGIApp, config: ServeConfig, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics
        self._keyring = Keyring(config.api_keys)
        self._rate = RateLimit(config.rate_per_minute)
        self._max_bytes, self._upload_s = config.max_body_bytes, config.deadline_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _route_path(scope).startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._keyring.caller(_header(scope, b"authorization"))
            scope.setdefault("state", {})["caller"] = caller
            if scope["method"] == "POST":
                self._rate.take(limited_as(caller, (scope.get("client") or ("",))[0]))
                receive = await self._uploaded(scope, receive)
        except Refusal as refusal:
            if isinstance(refusal, TooManyRequests):
                self._metrics.shed("rate")
            await faults.response(faults.fault(refusal, 1))(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _uploaded(self, scope: Scope, receive: Receive) -> Receive:
        """Reads the body; a `receive` that gives it whole, and then what comes after it."""
        length = _header(scope, b"content-length") or b""
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._upload_s):
                whole = await self._body(receive)
        except TimeoutError as exc:
            raise UploadTooSlow(f"the body did not arrive within {self._upload_s:g} s") from exc
        pending = [whole]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return replay

    async def _body(self, receive: Receive) -> Message:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                raise self._too_large()
            more = message.get("more_body", False)
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._max_bytes:,} bytes")


def _route_path(scope: Scope) -> str:
    """The path as the routes have it: without the prefix that the app is mounted at, which ASGI leaves in."""
    path, prefix = str(scope["path"]), scope.get("root_path", "")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


def _request_id(scope: Scope) -> str:
    sent = _header(scope, b"x-request-id") or b""
    return sent.decode() if _REQUEST_ID.fullmatch(sent) else uuid.uuid4().hex


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
