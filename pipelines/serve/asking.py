"""From a request to the backend and back: checks, tenant, admission, deadline. Knows no route.

A question is worked on within `patience`: at the deadline, or when its client goes away, what was asked of
the backend is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, Literal

from starlette.types import Receive

from pipelines.core.answer import Question
from pipelines.core.errors import UsageError
from pipelines.core.generator import Sampling
from pipelines.core.previews import Preview, preview_of
from pipelines.core.prompts import Turn
from pipelines.core.retriever import Query, plan
from pipelines.core.tenants import scoped
from pipelines.core.types import Answer, PlacedBox, SearchResult
from pipelines.serve import api, chat, faults, pictures
from pipelines.serve.api import AnswerRequest, SearchRequest
from pipelines.serve.backend import Backend, Event
from pipelines.serve.chat import ChatRequest, Completion
from pipelines.serve.config import ServeConfig
from pipelines.serve.faults import DeadlinePassed, Overloaded
from pipelines.serve.metrics import Metrics
from pipelines.serve.monitor import Asker, Monitor
from pipelines.serve.protection import Admission, Caller, patience
from pipelines.serve.remote import RemotePictures


class Asking:
    """`sampling`: the generator's own, for what a request leaves open. It also bounds an answer's length."""

    def __init__(
        self,
        backend: Backend,
        config: ServeConfig,
        sampling: Sampling,
        admission: Admission,
        metrics: Metrics,
        monitor: Monitor,
    ) -> None:
        self._backend, self._config, self._sampling = backend, config, sampling
        self._admission, self._metrics, self._monitor = admission, metrics, monitor
        remote = config.remote_images
        self._remote = RemotePictures(remote.timeout_s, config.max_picture_bytes) if remote.enabled else None

    @asynccontextmanager
    async def work(self, receive: Receive) -> AsyncIterator[None]:
        """A place to work on a question, kept until it is answered. Raises Overloaded, DeadlinePassed and
        ClientGone."""
        try:
            async with self.waited(receive), self._admission.slot():
                yield
        except Overloaded:
            self._metrics.shed("busy")
            raise
        except DeadlinePassed:
            self._metrics.shed("deadline")
            raise

    def waited(self, receive: Receive) -> AbstractAsyncContextManager[None]:
        """Work that needs no place. Raises DeadlinePassed and ClientGone."""
        return patience(receive, self._config.deadline_s, self._config.retry_after_s)

    def fault(self, exc: Exception) -> faults.Fault:
        return faults.fault(exc, self._config.retry_after_s)

    def broken(self, exc: Exception) -> faults.Fault:
        """As `fault`, of an answer that had begun: counted, as its status no longer tells."""
        if not isinstance(exc, faults.ClientGone):
            self._metrics.broken()
        return self.fault(exc)

    async def search(self, body: SearchRequest, caller: Caller) -> SearchResult:
        result = await self._backend.search(await self._query(body, body.query, body.image, caller))
        self._metrics.degraded(result.degraded)
        return result

    async def question(self, body: AnswerRequest, caller: Caller) -> Question:
        query = await self._query(body, body.query, body.image, caller)
        return Question(query, self._history([(turn.role, turn.content) for turn in body.history]))

    async def chat_question(self, body: ChatRequest, caller: Caller) -> tuple[Question, Completion]:
        name, adapter = chat.model_and_adapter(body.model, await self._backend.models())
        asked = chat.asked(body.messages, self._config.max_pictures)
        query = await self._query(body, asked.text, asked.picture, caller)
        sampling = chat.sampling(body, adapter, self._sampling)
        return Question(query, self._history(asked.history), sampling), Completion(name)

    def events(
        self, question: Question, asker: Asker
    ) -> AbstractAsyncContextManager[AsyncGenerator[Event, None]]:
        """The answer as it comes; leaving ends the work."""
        return aclosing(self._counted(question, asker))

    async def answer(self, question: Question, asker: Asker) -> Answer:
        async with self.events(question, asker) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")

    async def annotated(self, answer: Answer, own: bytes | None, caller: Caller) -> list[dict[str, Any]]:
        """Each picture that has boxes, with them drawn on it. `own` is the question's."""
        boxes: dict[int | Literal["query"], list[PlacedBox]] = {}
        for box in answer.boxes:
            boxes.setdefault(box.image, []).append(box)
        drawn: list[dict[str, Any]] = []
        for image, placed in boxes.items():
            preview = await self._shown(image, answer, own, caller)
            if preview is not None:
                uri = await asyncio.to_thread(pictures.annotated_uri, preview, placed)
                drawn.append({"image": image, "data_uri": uri})
        return drawn

    async def _shown(
        self, image: int | Literal["query"], answer: Answer, own: bytes | None, caller: Caller
    ) -> Preview | None:
        if image == "query":
            return await asyncio.to_thread(preview_of, own) if own else None
        contents = [api.picture_of(hit) for hit in answer.hits if hit.citation_id == image]
        return await self._backend.picture(contents[0], caller.tenant) if contents and contents[0] else None

    async def _counted(self, question: Question, asker: Asker) -> AsyncGenerator[Event, None]:
        async with aclosing(self._backend.answer(question)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    self._metrics.answer(event)
                    self._monitor.answered(asker, question, event)
                yield event

    async def _query(
        self, body: SearchRequest | ChatRequest, text: str | None, picture: str | None, caller: Caller
    ) -> Query:
        """What is asked of the backend, within the caller's tenant. Raises UsageError, TooLarge and
        BadImage."""
        config = self._config
        if text and len(text) > config.max_question_chars:
            most = f"{config.max_question_chars:,}"
            raise UsageError(f"the question has {len(text):,} characters; at most {most} are allowed")
        if body.k > config.max_k:
            raise UsageError(f"k is {body.k}; this server allows {config.max_k}")
        types = await self._backend.metadata_types() if body.filter is not None else {}
        where = scoped(api.parse_filter(body.filter, types, caller.tenant), caller.tenant)
        image = await self._picture(picture) if picture is not None else None
        query = Query(text, image, body.mode, body.k, where)
        plan(query)
        return query

    async def _picture(self, uri: str) -> bytes:
        data = await self._picture_bytes(uri)
        await asyncio.to_thread(pictures.check_pixels, data, self._config.max_picture_pixels)
        return data

    async def _picture_bytes(self, uri: str) -> bytes:
        if uri[:8].lower().startswith(("http://", "https://")):
            if self._remote is None:
                raise UsageError("this server does not fetch pictures by URL: send a data URI")
            return await self._remote.fetch(uri)
        return await asyncio.to_thread(pictures.read_data_uri, uri, self._config.max_picture_bytes)

    def _history(self, said: Sequence[api.SaidTurn]) -> tuple[Turn, ...]:
        return api.history_turns(said, self._config.max_history_turns, self._config.max_question_chars)
