"""A backend of real records that answers from a script, and clients that need no port."""

from __future__ import annotations

import asyncio
import base64
import inspect
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from fakes import picture
from fastapi import FastAPI

from pipelines.core import images
from pipelines.core.answer import Question, Retrieved, Said
from pipelines.core.filters import matches
from pipelines.core.previews import Preview
from pipelines.core.retriever import Query
from pipelines.core.types import Answer, Citation, Hit, Part, PlacedBox, SearchResult
from pipelines.serve.backend import Event, Health
from pipelines.serve.config import ServeConfig
from pipelines.serve.gateway import create_app

CONTENT = "ab" * 32
OTHERS_CONTENT = "cd" * 32
HIT = Hit(
    id="sink#img-0",
    document_id="sink",
    kind="image",
    score=0.5,
    text="散热器 heat sink",
    source="/home/somebody/secret-folder/sink.jsonl",
    image_uri=f"file:///home/somebody/mmrag-index/previews/ab/{CONTENT}.jpg",
    metadata={"year": 2021},
    citation_id=1,
    sources={"text": 1},
)
ANSWER = Answer(
    answer="40 mm apart [1].",
    citations=(Citation(1, "sink#img-0"),),
    boxes=(PlacedBox(1, (100.0, 100.0, 300.0, 200.0), "hole"),),
    hits=(HIT,),
    degraded=("lexical: http://es.internal:9200: search failed; is Elasticsearch running there? (timeout)",),
    timings_ms={"retrieve": 12.0, "generate": 30.0, "total": 45.0},
    dropped={"citations": 2, "boxes": 0},
)
PARTS = [
    Part(f"{tenant}#txt-0", "chunk", tenant, "s", text="t", tenant=tenant, metadata={"year": 2021})
    for tenant in ("a", "b")
]


class ScriptedBackend:
    """Says `pieces`, then `result`. `failure` is raised where one is set, before or `after` the first word.

    With `holding` it waits for ever before it answers; `cancelled` counts the waits that were ended.
    """

    def __init__(self) -> None:
        self.pieces = ["40 mm ", "apart [1]."]
        self.result = ANSWER
        self.failure: BaseException | None = None
        self.fails_after_a_word = False
        self.holding = False
        self.waiting = self.cancelled = 0
        self.queries: list[Query] = []
        self.questions: list[Question] = []
        self.healthy = Health(True, {"text": "ok"})

    async def search(self, query: Query) -> SearchResult:
        self.queries.append(query)
        await self._maybe_hold()
        self._maybe_fail()
        found = [part for part in PARTS if query.where is None or matches(query.where, part)]
        hits = tuple(replace(HIT, id=part.id, document_id=part.document_id) for part in found)
        return SearchResult(hits, self.result.degraded)

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        self.questions.append(question)
        if not self.fails_after_a_word:
            await self._maybe_hold()
            self._maybe_fail()
        yield Retrieved(self.result.hits, self.result.degraded)
        for piece in self.pieces:
            yield Said(piece)
            await self._maybe_hold()
            self._maybe_fail()
        yield self.result

    async def picture(self, content: str, tenant: str | None) -> Preview | None:
        owners = {CONTENT: "a", OTHERS_CONTENT: "b"}
        if content not in owners or tenant not in (None, owners[content]):
            return None
        return Preview(images.preview(images.decode(picture("blue", side=40))), 400, 400)

    async def metadata_types(self) -> Mapping[str, str]:
        return {"year": "int"}

    async def models(self) -> Sequence[str]:
        return ["tiny-llava", "tiny-llava:manuals"]

    async def health(self) -> Health:
        return self.healthy

    async def _maybe_hold(self) -> None:
        if not self.holding:
            return
        self.waiting += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    def _maybe_fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def app_of(backend: ScriptedBackend, **settings: Any) -> FastAPI:
    return create_app(backend, ServeConfig.model_validate(settings))


def client_of(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", **options)


def keys(**tenants: str | None) -> list[dict[str, Any]]:
    """An API key for each name: its name and `-secret-key`."""
    return [{"key": bearer(name), "tenant": tenant, "name": name} for name, tenant in tenants.items()]


def bearer(name: str) -> str:
    return f"{name}-secret-key"


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


async def until(condition: Any) -> None:
    """Waits, for 30 seconds at most. What is asked for may be awaitable."""
    for _ in range(6000):
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to pass")


def golden(name: str) -> bytes:
    return (Path(__file__).parents[1] / "golden" / "pictures" / name).read_bytes()
