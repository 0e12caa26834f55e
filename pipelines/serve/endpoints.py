"""The endpoints: what each answers, whole or as a stream. Knows no Ray, no model and no store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import Path, Request, Response
from prometheus_client.metrics_core import Metric
from starlette.types import Receive, Scope, Send

from pipelines.core.answer import Retrieved, Said
from pipelines.core.errors import MmragError
from pipelines.serve import api, chat, faults
from pipelines.serve.api import AnswerRequest, FeedbackRequest, SearchRequest
from pipelines.serve.asking import Asking
from pipelines.serve.backend import Backend, Health
from pipelines.serve.chat import ChatRequest
from pipelines.serve.faults import Json, NotFound
from pipelines.serve.metrics import CONTENT_TYPE, exposition
from pipelines.serve.monitor import Asker, Monitor
from pipelines.serve.shell import caller_of

_HEALTH_S: Final = 25.0
_DONE: Final = b"data: [DONE]\n\n"
_CACHED: Final = "private, max-age=31536000, immutable"


Measured = Callable[[], Awaitable[Mapping[str, Sequence[Metric]]]]
"""Each replica's metric families, by the replica's name."""


class Endpoints:
    def __init__(self, backend: Backend, asking: Asking, monitor: Monitor, measured: Measured) -> None:
        self._backend, self._asking, self._monitor, self._measured = backend, asking, monitor, measured

    async def search(self, body: SearchRequest, request: Request) -> Response:
        """Find pictures and passages by words, by a picture, or by both."""
        async with self._asking.work(request.receive):
            result = await self._asking.search(body, caller_of(request.scope))
        return Json(api.search_body(result))

    async def answer(self, body: AnswerRequest, request: Request) -> Response:
        """Answer a question from the evidence found for it, with citations and boxes."""
        caller = caller_of(request.scope)
        async with self._asking.work(request.receive):
            question = await self._asking.question(body, caller)
            answer = await self._asking.answer(question, _asker(request))
            found = api.answer_body(answer)
            if body.annotate:
                found["annotated"] = await self._asking.annotated(answer, question.query.image, caller)
        return Json(found)

    async def complete(self, body: ChatRequest, request: Request) -> Response:
        """Answer a conversation's last message, in OpenAI's form; the evidence stands beside the words."""
        if body.stream:
            return Spoken(self._asking, body, request)
        async with self._asking.work(request.receive):
            question, completion = await self._asking.chat_question(body, caller_of(request.scope))
            answer = await self._asking.answer(question, _asker(request))
        return Json(completion.whole(answer))

    async def feedback(self, body: FeedbackRequest, request: Request) -> Response:
        """Say whether an answer was good; a later rating of the same replaces it. It counts for an answer
        that the caller's own tenant asked for, and for no other."""
        rated = Asker(body.request_id, caller_of(request.scope).tenant)
        await asyncio.to_thread(self._monitor.rated, rated, body.rating)
        return Response(status_code=204)

    async def models(self, request: Request) -> Response:
        """The models that a chat can name."""
        async with self._asking.waited(request.receive):
            names = await self._backend.models()
        return Json(chat.ModelsBody(data=[chat.ModelBody(id=name) for name in names]).model_dump())

    async def image(self, content: Annotated[str, Path(pattern=api.CONTENT)], request: Request) -> Response:
        """The upright preview of a hit's picture. Boxes are in pixels of the original, whose size the headers
        `X-Original-Width` and `X-Original-Height` give."""
        async with self._asking.waited(request.receive):
            preview = await self._backend.picture(content, caller_of(request.scope).tenant)
        if preview is None:
            raise NotFound("there is no such picture here")
        headers = {
            "Cache-Control": _CACHED,
            "Vary": "Authorization",
            "X-Original-Width": str(preview.original_width),
            "X-Original-Height": str(preview.original_height),
        }
        return Response(preview.data, media_type="image/jpeg", headers=headers)

    async def health(self) -> Response:
        """200 when questions can be answered; the parts say what is missing."""
        try:
            async with asyncio.timeout(_HEALTH_S):
                found = await self._backend.health()
        except TimeoutError:
            found = Health(False, {"backend": f"no answer within {_HEALTH_S:g} s"})
        except MmragError as exc:
            found = Health(False, {"backend": str(exc)})
        parts = {name: faults.public(state) for name, state in found.parts.items()}
        whole = all(state == "ok" for state in parts.values())
        status = "unavailable" if not found.ready else "ok" if whole else "degraded"
        return Json({"status": status, "parts": parts}, 200 if found.ready else 503)

    async def metrics(self) -> Response:
        """For Prometheus: of all replicas of the gateway, whichever is asked."""
        return Response(exposition(await self._measured()), headers={"Content-Type": CONTENT_TYPE})


class Spoken(Response):
    """A chat's answer as server-sent events. What fails before the first word is an ordinary error; after it,
    an event says so, and no `[DONE]` follows."""

    media_type = "text/event-stream"

    def __init__(self, asking: Asking, body: ChatRequest, request: Request) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._asking, self._body, self._request = asking, body, request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def say(data: bytes, more: bool = True) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await send(
                    {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                )
            await send({"type": "http.response.body", "body": data, "more_body": more})

        try:
            async with self._asking.work(receive), aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    await say(_event(chunk))
        except Exception as exc:
            if begun:
                await say(_event(self._asking.broken(exc).body), more=False)
            if not (begun and isinstance(exc, MmragError)):
                raise
        else:
            await say(_DONE, more=False)

    async def _chunks(self) -> AsyncGenerator[dict[str, Any], None]:
        question, completion = await self._asking.chat_question(self._body, caller_of(self._request.scope))
        found: Retrieved | None = None
        begun = False
        async with self._asking.events(question, _asker(self._request)) as events:
            async for event in events:
                if isinstance(event, Retrieved):
                    found = event  # told with the first word: a generator that is down is a 503 until then
                    continue
                if not begun:
                    begun = True
                    yield completion.first(found)
                if isinstance(event, Said):
                    yield completion.piece(event.text)
                    continue
                yield completion.last(event)
                if self._body.stream_options and self._body.stream_options.include_usage:
                    yield completion.usage(event)


def _asker(request: Request) -> Asker:
    return Asker(request.state.request_id, caller_of(request.scope).tenant)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + faults.to_json(data).encode("utf-8", "replace") + b"\n\n"
