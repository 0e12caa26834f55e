"""What the replicas of Ray Serve hold: query encoder, aligner, retriever, in-process generator, gateway.

Each loads its part once and passes calls on to the kernel. Decides nothing about questions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric
from ray import serve
from ray.serve.handle import DeploymentHandle

from pipelines.core.aligner import Asked, Candidates
from pipelines.core.answer import AnswerConfig, Answerer, Question
from pipelines.core.encoder import Pixels, Vectors, load_encoder
from pipelines.core.errors import BadImage
from pipelines.core.generator import GeneratorConfig, Prompt, Sampling, load_profile, model_name
from pipelines.core.index import Index, IndexConfig
from pipelines.core.previews import Preview, preview_at, read_preview
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import Hit, SearchResult, Usage
from pipelines.serve.backend import Event, Health
from pipelines.serve.config import ServeConfig
from pipelines.serve.gateway import create_app
from pipelines.serve.handles import (
    Described,
    QuestionVectors,
    RemoteAligner,
    RemoteEmbedder,
    RemoteEncoder,
    RemoteGenerator,
    RemoteQuestions,
    RemoteSearcher,
)
from pipelines.serve.health import Probe
from pipelines.serve.logs import join_serve, timed
from pipelines.serve.retrieval import Retrieval

_LOG = logging.getLogger(__name__)
# A replica's name and its metric families.
Measured = tuple[str, list[Metric]]
Vector = NDArray[np.float32]

_MEASURED_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Parts:
    """All that is served, and how."""

    index_dir: Path
    index: IndexConfig
    search: SearchConfig
    answer: AnswerConfig
    generator: GeneratorConfig
    serve: ServeConfig


class QueryEncoder:
    """Questions to vectors, those that arrive together in one batch."""

    def __init__(self, parts: Parts) -> None:
        join_serve(parts.serve.log.level)
        self._index = Index(parts.index_dir, parts.index)
        self._index.check_spaces()
        self._encoder = self._index.encoder()
        batch = parts.serve.encoder
        batched: tuple[Any, ...] = (self.question, self.encode_picture)
        for method in batched:
            method.set_max_batch_size(batch.max_batch_size)
            method.set_batch_wait_timeout_s(batch.batch_wait_s)
        _question_vectors(self._index, ["warm"])

    async def described(self) -> Described:
        embedder = self._index.embedder()
        return Described(self._encoder.cache_key, embedder.space, embedder.floor)

    @serve.batch
    async def question(self, texts: list[str]) -> list[QuestionVectors]:
        with timed(_LOG, "encode_text", batch=len(texts), requests=_batched_ids()):
            return await asyncio.to_thread(_question_vectors, self._index, texts)

    @serve.batch
    async def encode_picture(self, files: list[bytes]) -> list[Vectors | BadImage]:
        with timed(_LOG, "encode_picture", batch=len(files), requests=_batched_ids()):
            return await asyncio.to_thread(self._pictures, files)

    def _pictures(self, files: Sequence[bytes]) -> list[Vectors | BadImage]:
        """A bad picture fails its own question only."""
        found: list[list[Sequence[Pixels]] | BadImage] = []
        for data in files:
            try:
                found.append(self._encoder.asked_pyramids(data))
            except BadImage as exc:
                found.append(exc)
        pyramids = [one for of_file in found if not isinstance(of_file, BadImage) for one in of_file]
        vectors = iter(self._encoder.encode_images(pyramids))
        return [
            of_file if isinstance(of_file, BadImage) else np.stack([next(vectors) for _ in of_file])
            for of_file in found
        ]


class Alignment:
    """Judges candidates, those of questions that arrive together in one batch."""

    def __init__(self, parts: Parts) -> None:
        join_serve(parts.serve.log.level)
        with Index(parts.index_dir, parts.index) as index:
            aligner = index.aligner(parts.search.aligner)
        assert aligner is not None
        self._aligner = aligner
        batched: Any = self.relevance
        batched.set_max_batch_size(parts.serve.aligner.max_batch_size)
        batched.set_batch_wait_timeout_s(parts.serve.aligner.batch_wait_s)

    @serve.batch
    async def relevance(self, questions: list[tuple[Asked, Candidates]]) -> list[Vector]:
        asked, candidates = zip(*questions, strict=True)
        with timed(_LOG, "align", batch=len(questions), requests=_batched_ids()):
            return await asyncio.to_thread(self._aligner.relevance, asked, candidates)


class Retriever(Retrieval):
    """Searches with the query encoder's vectors. `aligner` is None where none is configured."""

    def __init__(
        self, parts: Parts, encoder: DeploymentHandle[Any], aligner: DeploymentHandle[Any] | None
    ) -> None:
        join_serve(parts.serve.log.level)
        timeout_s = parts.search.branch_timeout_s
        questions = RemoteQuestions(encoder, timeout_s)
        index = Index(
            parts.index_dir,
            parts.index,
            encoder=lambda: RemoteEncoder(
                load_encoder(index.pinned().encoder), encoder, questions, timeout_s
            ),
            embedder=lambda: RemoteEmbedder(encoder, questions, timeout_s),
        )
        remote = RemoteAligner(aligner, timeout_s) if aligner else None
        super().__init__(index, parts.search, parts.serve, remote)
        self.wait_for_stores()

    def measured(self) -> Measured:
        return _measured(self.families())


def local_retrieval(parts: Parts) -> Retrieval:
    """With all models in this process, loaded. Raises as `Retrieval.wait_for_stores`."""
    index = Index(parts.index_dir, parts.index)
    index.check_spaces()
    _question_vectors(index, ["warm"])
    retrieval = Retrieval(index, parts.search, parts.serve, index.aligner(parts.search.aligner))
    retrieval.wait_for_stores()
    return retrieval


class TransformersGenerator:
    """Where vLLM cannot run: one answer at a time."""

    def __init__(self, parts: Parts) -> None:
        from pipelines.core.engine import TransformersEngine  # of all that is served only this needs torch

        join_serve(parts.serve.log.level)
        self._engine = TransformersEngine(parts.generator)
        self._engine.load()

    async def say(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        with timed(_LOG, "generate"):
            async with aclosing(self._engine.stream(prompt, sampling)) as pieces:
                async for piece in pieces:
                    yield piece


class ServedBackend:
    """The gateway's Backend over the other deployments."""

    def __init__(
        self, parts: Parts, searcher: RemoteSearcher | Retrieval, generator: DeploymentHandle[Any]
    ) -> None:
        self._parts = parts
        self._searcher = searcher
        self._generator = RemoteGenerator(generator)
        self._index = Index(parts.index_dir, parts.index)
        profile = load_profile(parts.generator)
        self._answerer = Answerer(
            self._searcher, self._generator, self._preview, profile, parts.answer, parts.generator
        )
        self._probe = Probe(searcher, self._generator)

    async def search(self, query: Query) -> SearchResult:
        return await self._searcher.search(query)

    def answer(self, question: Question) -> AsyncGenerator[Event]:
        return self._answerer.stream(question)

    async def picture(self, content: str, tenant: str | None) -> Preview | None:
        if tenant is not None and not await self._searcher.has_content(content, tenant):
            return None
        return await asyncio.to_thread(read_preview, self._index.previews, content)

    async def metadata_types(self) -> Mapping[str, str]:
        return self._index.manifest().metadata_types

    async def models(self) -> Sequence[str]:
        base = model_name(self._parts.generator)
        return [base, *(f"{base}:{name}" for name in self._parts.generator.adapters)]

    async def health(self) -> Health:
        return await self._probe.health()

    def _preview(self, hit: Hit) -> Preview | None:
        return preview_at(self._index.previews, hit.image_uri) if hit.image_uri else None


class Gateway:
    """HTTP in, answers out. Without `retriever` it retrieves by itself."""

    def __init__(
        self, parts: Parts, retriever: DeploymentHandle[Any] | None, generator: DeploymentHandle[Any]
    ) -> None:
        join_serve(parts.serve.log.level)
        searcher = RemoteSearcher(retriever) if retriever else local_retrieval(parts)
        self._retrieval = searcher if isinstance(searcher, Retrieval) else None
        self._others = [retriever] if retriever else []
        backend = ServedBackend(parts, searcher, generator)
        self._backend = backend
        self._app = create_app(
            backend, parts.serve, parts.generator.sampling, self._all_measured, adds_id=False
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    async def health(self) -> Health:
        return await self._backend.health()

    async def close(self) -> None:
        """What is asked from now on is refused; returns when all that was asked before is answered."""
        await self._app.state.admission.close()

    def measured(self) -> Measured:
        retrieval = self._retrieval.families() if self._retrieval else []
        return _measured([*self._app.state.metrics.families(), *retrieval])

    async def _all_measured(self) -> Mapping[str, Sequence[Metric]]:
        """Of all gateways and retrievers, but for those that just end or do not answer in time."""
        context = serve.get_replica_context()
        gateways: Any = serve.get_deployment_handle(context.deployment, context.app_name)
        told = await asyncio.gather(*(_measured_by_all(handle) for handle in (gateways, *self._others)))
        return dict([*chain.from_iterable(told), self.measured()])


def _question_vectors(index: Index, texts: Sequence[str]) -> list[QuestionVectors]:
    """Loads the models' weights where nothing has used them yet."""
    encoder = index.encoder()
    read = [text for text in texts if encoder.reads(text)]
    visual = dict(zip(read, encoder.encode_texts(read), strict=True)) if read else {}
    embedded = index.embedder().embed_queries(texts)
    return [QuestionVectors(one, visual.get(text)) for text, one in zip(texts, embedded, strict=True)]


def _batched_ids() -> list[str]:
    """Of the requests that are worked on together."""
    return [context.request_id for context in serve.context._get_serve_batch_request_context()]


def _measured(families: list[Metric]) -> Measured:
    return serve.get_replica_context().replica_id.unique_id, families


async def _measured_by_all(handle: Any) -> list[Measured]:
    try:
        answers = await handle.broadcast("measured").results_async(
            timeout_s=_MEASURED_TIMEOUT_S, return_exceptions=True
        )
    except TimeoutError as exc:
        answers = [exc]
    for failed in (one for one in answers if isinstance(one, Exception)):
        _LOG.warning("a replica's metrics are missing: %r", failed)
    return [one for one in answers if not isinstance(one, Exception)]
