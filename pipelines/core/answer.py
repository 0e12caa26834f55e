"""Answer a question: make it whole, retrieve, prompt, generate, cite. Knows nothing of Ray or HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.citations import AnswerReader
from pipelines.core.evidence import LoadPreview, Shown, show
from pipelines.core.generator import Generator, GeneratorConfig, ModelProfile, Sampling
from pipelines.core.prompts import NO_ANSWER, NO_QUESTION, Turn, language
from pipelines.core.retriever import Query
from pipelines.core.switches import MAY_BE_OFF
from pipelines.core.types import Answer, Citation, Hit, SearchResult, Usage

_WHOLE_CHARACTERS = 2000  # of a follow-up with what it follows; a question alone is never cut


class AnswerConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    evidence: int = Field(4, ge=1, le=50, description="hits that the generator is shown, at most")
    follow_up: Annotated[Literal["join", "off"], MAY_BE_OFF] = Field(
        "join", description="join: a follow-up is searched together with the questions before it"
    )


@dataclass(frozen=True, slots=True)
class Question:
    """`history`: the turns before it, words only; a user's turn without any was a picture alone.
    `sampling`: None for the configured one."""

    query: Query
    history: tuple[Turn, ...] = ()
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The evidence as it is numbered, before anything is generated."""

    hits: tuple[Hit, ...]
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """The next words of the answer: citations checked, boxes taken out."""

    text: str


class Searcher(Protocol):
    async def search(self, query: Query) -> SearchResult:
        """Raises StoreUnavailable, UsageError and BadImage."""


class FindsHits(Protocol):
    """A retriever: one of a fixed index, or one that follows its rebuilds."""

    def search(self, query: Query) -> SearchResult: ...


class LocalSearcher:
    """A retriever of this process."""

    def __init__(self, retriever: FindsHits) -> None:
        self._retriever = retriever

    async def search(self, query: Query) -> SearchResult:
        return await asyncio.to_thread(self._retriever.search, query)


class Answerer:
    """Safe to ask concurrently."""

    def __init__(
        self,
        searcher: Searcher,
        generator: Generator,
        load_preview: LoadPreview,
        profile: ModelProfile,
        config: AnswerConfig,
        generator_config: GeneratorConfig,
    ) -> None:
        self._searcher, self._generator, self._load = searcher, generator, load_preview
        self._profile, self._config, self._generator_config = profile, config, generator_config

    async def answer(self, question: Question) -> Answer:
        """Raises UsageError and BadImage for the question, StoreUnavailable and GeneratorUnavailable."""
        async with aclosing(self.stream(question)) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return event
        raise AssertionError("a stream ends with its answer")

    async def stream(self, question: Question) -> AsyncGenerator[Retrieved | Said | Answer]:
        """Retrieved, the words as they come, and the Answer as a whole. Closing it ends the work."""
        clock = _Clock()
        with clock.stage("retrieve"):
            result = await self._searcher.search(self._whole(question))
        with clock.stage("prompt"):
            shown = await asyncio.to_thread(self._show, question, result.hits)
        hits = tuple(replace(hit, citation_id=number) for number, hit in enumerate(shown.hits, start=1))
        yield Retrieved(hits, result.degraded)
        reader, usage = AnswerReader(len(shown.hits), shown.frames), Usage()
        if shown.hits or shown.frames:
            sampling = question.sampling or self._generator_config.sampling
            with clock.stage("generate"):
                async with aclosing(self._generator.stream(shown.prompt, sampling)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, Usage):
                            usage = piece
                            continue
                        clock.first("first_token")
                        if text := reader.feed(piece):
                            yield Said(text)
                if text := reader.close():
                    yield Said(text)
        else:
            yield Said(reader.feed(NO_ANSWER[language(_words(question))]) + reader.close())
        yield _answer(reader, hits, result.degraded, clock.times(), usage)

    def _whole(self, question: Question) -> Query:
        """What retrieval is asked: for no more hits than are shown, a follow-up with what it follows."""
        query = question.query
        text = query.text
        if text and self._config.follow_up == "join":
            earlier = "".join(
                f"{turn.text}\n" for turn in question.history if turn.role == "user" and turn.text
            )
            room = max(0, _WHOLE_CHARACTERS - len(text))
            text = earlier[max(0, len(earlier) - room) :] + text
        return replace(query, text=text, k=min(query.k, self._config.evidence))

    def _show(self, question: Question, hits: Sequence[Hit]) -> Shown:
        query = question.query
        picture = query.image if query.mode != "text" else None
        return show(
            (query.text or "").strip(),
            question.history,
            hits,
            picture,
            self._load,
            self._generator_config,
            self._profile,
        )


def _words(question: Question) -> str:
    return (question.query.text or "").strip() or NO_QUESTION


def _answer(
    reader: AnswerReader,
    hits: tuple[Hit, ...],
    degraded: tuple[str, ...],
    timings_ms: dict[str, float],
    usage: Usage,
) -> Answer:
    text = reader.text.strip()
    refused = text.startswith(tuple(NO_ANSWER.values()))
    return Answer(
        answer=text,
        citations=() if refused else tuple(Citation(n, hits[n - 1].id) for n in reader.cited),
        boxes=() if refused else tuple(reader.boxes),
        hits=hits,
        degraded=degraded,
        timings_ms=timings_ms,
        refused=refused,
        dropped=dict(reader.dropped),
        usage=usage,
    )


class _Clock:
    """Milliseconds of the stages, and from the start."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._times: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._times[name] = (time.perf_counter() - start) * 1000

    def first(self, name: str) -> None:
        self._times.setdefault(name, (time.perf_counter() - self._start) * 1000)

    def times(self) -> dict[str, float]:
        return self._times | {"total": (time.perf_counter() - self._start) * 1000}
