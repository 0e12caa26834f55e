"""The other deployments as the kernel's own protocols: each behind its Ray Serve handle.

A replica that is lost is asked again elsewhere; errors of ours arrive as they were raised.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from pipelines.core.aligner import Asked, Candidates
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadImage, GeneratorUnavailable, MmragError, StoreUnavailable
from pipelines.core.generator import Prompt, Sampling
from pipelines.core.retriever import Query
from pipelines.core.space import Space
from pipelines.core.types import SearchResult, Usage

T = TypeVar("T")
Vectors = NDArray[np.float32]

_ATTEMPTS = 3
_REMEMBERED_TEXTS = 128
_LOST = (RayError, RayServeException)


@dataclass(frozen=True, slots=True)
class Described:
    """What an encoder replica loaded."""

    cache_key: str
    text_space: Space
    floor: float


@dataclass(frozen=True, slots=True)
class QuestionVectors:
    """Of a question's text: `text` (D,) to search passages with, `visual` (S x D,) to search pictures with,
    None where the picture encoder does not read it."""

    text: Vectors
    visual: Vectors | None


class RemoteSearcher:
    """A Searcher, and what else the gateway asks of the retriever."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle

    async def search(self, query: Query) -> SearchResult:
        found: SearchResult = await _retried(lambda: self._handle.search.remote(query), "the retriever")
        return found

    async def has_content(self, content: str, tenant: str) -> bool:
        return bool(await _retried(lambda: self._handle.has_content.remote(content, tenant), "the retriever"))


class RemoteQuestions:
    """What the query encoder says of questions' texts: one call for each text, however many branches of a
    search want its vectors at once. For threads without a loop."""

    def __init__(self, handle: DeploymentHandle[Any], timeout_s: float) -> None:
        self._handle, self._timeout_s = handle, timeout_s
        self._calls: OrderedDict[str, Future[QuestionVectors]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> QuestionVectors:
        """Raises StoreUnavailable where the encoder does not answer; the next call asks again."""
        with self._lock:
            is_new = text not in self._calls
            call = self._calls.setdefault(text, Future())
            if len(self._calls) > _REMEMBERED_TEXTS:
                self._calls.popitem(last=False)
        if is_new:
            try:
                call.set_result(waited(self._timeout_s, self._handle.question, text))
            except BaseException as exc:
                with self._lock:
                    self._calls.pop(text, None)
                call.set_exception(exc)
                raise
        return call.result()


class RemoteEncoder(Encoder):
    """The encoder of another deployment; what needs no weights is done here. For threads without a loop."""

    def __init__(
        self, local: Encoder, handle: DeploymentHandle[Any], questions: RemoteQuestions, timeout_s: float
    ) -> None:
        super().__init__(local.model, local.batch_size)
        self._handle, self._questions, self._timeout_s = handle, questions, timeout_s

    @property
    def cache_key(self) -> str:
        return _described(self._handle, self._timeout_s).cache_key

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._visual(text) for text in texts])

    def encode_asked(self, data: bytes) -> Vectors:
        found: Vectors | BadImage = waited(self._timeout_s, self._handle.encode_picture, data)
        if isinstance(found, BadImage):
            raise found
        return found

    def _visual(self, text: str) -> Vectors:
        vector = self._questions(text).visual
        assert vector is not None, f"{self.model.name} does not read this text"
        return vector


class RemoteEmbedder:
    """The text embedder of another deployment, for questions. For threads without a loop."""

    def __init__(self, handle: DeploymentHandle[Any], questions: RemoteQuestions, timeout_s: float) -> None:
        self._questions = questions
        described = _described(handle, timeout_s)
        self.space, self.floor = described.text_space, described.floor

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._questions(text).text for text in texts])

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        raise NotImplementedError("passages are embedded at ingest")


class RemoteAligner:
    """The aligner of another deployment. For threads without a loop."""

    def __init__(self, handle: DeploymentHandle[Any], timeout_s: float) -> None:
        self._handle, self._timeout_s = handle, timeout_s

    def relevance(self, asked: Sequence[Asked], candidates: Sequence[Candidates]) -> list[Vectors]:
        return [
            waited(self._timeout_s, self._handle.relevance, one, who="the aligner")
            for one in zip(asked, candidates, strict=True)
        ]


class RemoteGenerator:
    """The Generator protocol over the handle of a deployment with a method `say`.

    An answer whose replica is lost is asked for again: of another replica, and going on where it stopped.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._say = handle.options(method_name="say", stream=True)

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        said = ""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                async with aclosing(_after(said, self._pieces(prompt, sampling))) as pieces:
                    async for piece in pieces:
                        said += piece if isinstance(piece, str) else ""
                        yield piece
                return
            except GeneratorUnavailable:
                if not attempts_left or (said and sampling.temperature > 0):
                    raise

    async def _pieces(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        response: Any = self._say.remote(prompt, sampling)
        done = False
        try:
            async for piece in response:
                yield piece
            done = True
        except RayTaskError as exc:
            if isinstance(exc.cause, MmragError):
                raise type(exc.cause)(*exc.cause.args) from None  # without the replica's traceback
            raise GeneratorUnavailable(f"the generator failed: {type(exc.cause).__name__}") from exc
        except (RayError, RayServeException) as exc:
            raise GeneratorUnavailable(
                f"the generator does not answer ({type(exc).__name__}); ask again in some seconds"
            ) from exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise GeneratorUnavailable("the generator's replica ended; ask again") from exc
        finally:
            if not done:
                response.cancel()


def _described(handle: DeploymentHandle[Any], timeout_s: float) -> Described:
    found: Described = waited(timeout_s, handle.described)
    return found


def waited(timeout_s: float, method: Any, *arguments: Any, who: str = "the query encoder") -> Any:
    """The result of a call, waited for by this thread."""
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return method.remote(*arguments).result(timeout_s=timeout_s)
        except TimeoutError as exc:
            raise StoreUnavailable(f"{who} did not answer within {timeout_s:g} s") from exc
        except _LOST as exc:
            _raise_own(exc)
            if not attempts_left:
                raise StoreUnavailable(_lost(who, exc)) from exc
    raise AssertionError


async def _retried(call: Callable[[], Awaitable[T]], who: str) -> T:
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return await call()
        except _LOST as exc:
            _raise_own(exc)
            if not attempts_left:
                raise StoreUnavailable(_lost(who, exc)) from exc
    raise AssertionError


async def _after(said: str, pieces: AsyncGenerator[str | Usage]) -> AsyncGenerator[str | Usage]:
    """What follows `said` in an answer that is written anew."""
    text = ""
    async with aclosing(pieces):
        async for piece in pieces:
            if isinstance(piece, Usage):
                yield piece
                continue
            text += piece
            if not (text.startswith(said) or said.startswith(text)):
                raise GeneratorUnavailable("the answer was lost midway, and begins otherwise now: ask again")
            if len(text) > len(said):
                yield text[len(said) :]
                said = text


def _raise_own(exc: Exception) -> None:
    """An error that our code raised there is raised here, without the replica's traceback; one that it did
    not mean to raise, too: asking again would not help."""
    if isinstance(exc, RayTaskError):
        if isinstance(exc.cause, MmragError):
            raise exc.cause from None
        raise exc


def _lost(who: str, exc: Exception) -> str:
    return f"{who} does not answer ({type(exc).__name__}); ask again in some seconds"
