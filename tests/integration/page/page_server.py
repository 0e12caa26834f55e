"""The real gateway over a backend that answers from a script, on a free loopback port."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn

from pipelines.core.answer import Question, Retrieved
from pipelines.core.answer import Said as Piece
from pipelines.core.errors import MmragError
from pipelines.core.previews import Preview
from pipelines.core.retriever import Query
from pipelines.core.types import Answer, Citation, Hit, PlacedBox, SearchResult, Usage
from pipelines.serve.backend import Event, Health
from pipelines.serve.config import ServeConfig
from pipelines.serve.gateway import create_app

TIMINGS = {"retrieve": 41.2, "generate": 1240.5, "total": 1302.9}


@dataclass(frozen=True)
class Said:
    """One answer: its pieces as they are streamed, then what stands beside them, or a failure."""

    pieces: Sequence[str] = ()
    hits: Sequence[Hit] = ()
    boxes: Sequence[PlacedBox] = ()
    degraded: Sequence[str] = ()
    refused: bool = False
    cut: bool = False
    pause_s: float = 0.0
    failure: MmragError | None = None


@dataclass
class Script:
    """A backend. `answers` are taken by the question's text, each list from its start; the last one stays.

    `ended` counts the answers that were cut off while they were given.
    """

    answers: dict[str, list[Said]] = field(default_factory=dict)
    pictures: dict[str, Preview] = field(default_factory=dict)
    asked: list[Question] = field(default_factory=list)
    ended: int = 0
    url: str = ""

    async def search(self, query: Query) -> SearchResult:
        return SearchResult(())

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        self.asked.append(question)
        planned = self.answers[question.query.text or ""]
        said = planned.pop(0) if len(planned) > 1 else planned[0]
        yield Retrieved(tuple(said.hits), tuple(said.degraded))
        try:
            for piece in said.pieces:
                yield Piece(piece)
                await asyncio.sleep(said.pause_s)
        except (GeneratorExit, asyncio.CancelledError):
            self.ended += 1
            raise
        if said.failure is not None:
            raise said.failure
        text = "".join(said.pieces)
        yield Answer(
            answer=text,
            citations=tuple(
                Citation(hit.citation_id, hit.id) for hit in said.hits if f"[{hit.citation_id}]" in text
            ),
            boxes=tuple(said.boxes),
            hits=tuple(said.hits),
            degraded=tuple(said.degraded),
            timings_ms=TIMINGS,
            refused=said.refused,
            usage=Usage(cut=said.cut),
        )

    async def picture(self, content: str, tenant: str | None) -> Preview | None:
        return self.pictures.get(content)

    async def metadata_types(self) -> Mapping[str, str]:
        return {"year": "int"}

    async def models(self) -> Sequence[str]:
        return ["tiny"]

    async def health(self) -> Health:
        return Health(True, {"text": "ok"})


def hit(n: int, document: str, text: str, picture: str = "") -> Hit:
    """Evidence number `n`; `picture` is the SHA-256 that names its preview."""
    return Hit(
        id=f"{document}#{'img' if picture else 'txt'}-0",
        document_id=document,
        kind="image" if picture else "chunk",
        score=0.0328 - n * 0.0011,
        text=text,
        source=f"corpus/{document}.json",
        image_uri=f"file:///index/previews/{picture}.jpg" if picture else None,
        metadata={},
        citation_id=n,
        sources={"text_to_image": n, "lexical": n + 1} if picture else {"text": n},
    )


@contextmanager
def running(script: Script, config: ServeConfig) -> Iterator[Script]:
    """The gateway in a thread of its own, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(script, config)
    serving = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not serving.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    try:
        yield script
    finally:
        serving.should_exit = True
        thread.join(10)
        listener.close()
