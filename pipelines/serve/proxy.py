"""In Ray Serve's HTTP proxy: a request whose gateway was lost is given to another gateway. Pure ASGI, no Ray.

Ray Serve makes a proxy of what `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names.
"""

from __future__ import annotations

import logging
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.serve import faults
from pipelines.serve.faults import Fault

log = logging.getLogger("ray.serve")  # the proxy's own: in its file, with the request's id

_ATTEMPTS: Final = 3
_KEPT_BYTES: Final = 64 * 2**20
_LOST: Final = Fault(503, "unavailable_error", "the gateway was lost; ask again in some seconds", 1.0)


def middlewares() -> list[Middleware]:
    return [Middleware(AskedAgain)]


class AskedAgain:
    """What returns without an answer was given to a replica that ended: it is asked for again. At worst a
    rating is counted twice; no other request changes anything. An answer that has begun is broken off; a body
    of more than 64 MiB, which no gateway takes by its defaults, is not kept for a second time."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = _Upload(receive)
        begun = False

        async def send_noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        for _ in range(_ATTEMPTS):
            attempt = dict(scope)  # what is below writes into it
            await self._app(attempt, upload.replayed(), send_noted)
            if begun or upload.is_gone:
                return
            scope["headers"] = attempt["headers"]  # with the request's id
            if not upload.is_kept:
                break
            log.warning("a gateway was lost; request %s goes to another", _request_id(scope))
        answer = faults.response(_LOST)
        answer.headers["X-Request-Id"] = _request_id(scope)
        await answer(scope, receive, send)


class _Upload:
    """A request's body, from its beginning for each reader. `is_gone`: its sender does not wait any more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self._bytes = 0
        self.is_kept, self.is_gone = True, False

    def replayed(self) -> Receive:
        read = 0

        async def receive() -> Message:
            nonlocal read
            if read < len(self._messages):
                message = self._messages[read]
            else:
                message = await self._receive()
                self._note(message)
            read += 1
            return message

        return receive

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.is_gone = True
        self._bytes += len(message.get("body", b""))
        if self._bytes > _KEPT_BYTES:
            self.is_kept = False
            self._messages.clear()
        elif self.is_kept:
            self._messages.append(message)


def _request_id(scope: Scope) -> str:
    return Headers(scope=scope).get("x-request-id", "")
