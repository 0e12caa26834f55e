"""The system as a library: ingest into an index, search it, ask it, in this process. Decides nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from pipelines.core import filters
from pipelines.core.addresses import index_directory
from pipelines.core.answer import Answerer, FindsHits, LocalSearcher, Question
from pipelines.core.errors import BadImage, BadReading, UsageError
from pipelines.core.index import Index
from pipelines.core.lazy import Lazy
from pipelines.core.live import LiveIndex
from pipelines.core.picture_files import read_named
from pipelines.core.previews import Preview, annotated_pictures, preview_at
from pipelines.core.retriever import Mode, Query
from pipelines.core.types import Answer, Hit, Line, Scalar, SearchResult, answer_dict
from pipelines.settings import Settings, load_settings

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.ingest.summary import Summary

Where = str | Mapping[str, Scalar]
Picture = bytes | Path | str
"""The bytes of its file, or where that is."""


class KnowledgeBase:
    """An index directory and the settings that it is used with.

    Models and stores open with the first question and stay open: close it, or use it as a context. Safe to
    use from several threads, also while one of them ingests; answers are written one after another, but
    beside those that a close has left to their end.
    """

    def __init__(self, directory: Path | str, settings: Settings | None = None) -> None:
        self.directory = index_directory(directory)
        self.settings = settings or load_settings()
        self._swap = threading.Lock()
        self._forget()

    def ingest(
        self,
        sources: Sequence[str | Path],
        *,
        prune: bool = False,
        retry_rejected: bool = False,
        rebuild: bool = False,
    ) -> Summary:
        """Bring the index up to date with its sources, on Ray, or with `rebuild` make it anew beside the one
        that is searched meanwhile. Raises MmragError as `mmrag ingest` fails."""
        from pipelines.ingest.job import ingest

        if not rebuild:
            self.close()  # its workers load the models, too, and may need the memory
        summary = ingest(
            [str(source) for source in sources],
            self.directory,
            self.settings.index,
            self.settings.ingest,
            prune=prune,
            retry_rejected=retry_rejected,
            rebuild=rebuild,
        )
        if self._live.made:
            self._opened().look()
        return summary

    def search(
        self,
        text: str | None = None,
        image: Picture | None = None,
        *,
        mode: Mode = "auto",
        k: int = 10,
        where: Where | None = None,
    ) -> SearchResult:
        """Pictures and passages for a text, a picture, or both. `where` is a filter as `--filter` takes it,
        or a value for each field that must equal it, taken literally: the way for values that users type.
        Raises UsageError, BadImage, StoreUnavailable."""
        return self._opened().search(self._query(text, image, mode, k, where))

    def ask(
        self,
        text: str | None = None,
        image: Picture | None = None,
        *,
        mode: Mode = "auto",
        k: int = 10,
        where: Where | None = None,
    ) -> Answer:
        """An answer from the index with its citations and boxes. Raises as `search` does. Within a running
        event loop, await `answerer().answer(...)` instead."""
        question = Question(self._query(text, image, mode, k, where))
        return asyncio.run(self.answerer().answer(question))

    def answerer(self) -> Answerer:
        """For streams, conversations and event loops: `await answerer.answer(Question(Query("Which one?")))`,
        or `answerer.stream`, whose events are `Retrieved`, then `Said`, and an `Answer` at the end."""
        with self._swap:
            return self._answerer()

    def picture(self, hit: Hit) -> bytes | None:
        """The upright JPEG that the index keeps of a hit's picture, its long side at most 1,536 pixels; None
        for a passage."""
        preview = _preview(self._opened().index, hit)
        return preview.data if preview else None

    def marked(
        self, answer: Answer, image: Picture | None = None
    ) -> dict[Literal["query"] | int, Image.Image]:
        """The pictures that an answer has boxes on, with these drawn: that of evidence n by its number, and
        as "query" the question's own, which is to be given again as `image`. Raises BadImage."""
        shown = annotated_pictures(answer_dict(answer), _bytes_of(image), self._opened().index.previews)
        return {which: picture for which, picture in shown if picture}

    def read(self, image: Picture) -> tuple[Line, ...]:
        """The lines of text that stand in a picture, in reading order, boxes in its pixels: by `ingest.ocr`.
        Raises UsageError where that is none or not installed, and BadImage, also where it fails."""
        from pipelines.core.ocr import read_lines

        try:
            return read_lines(self.settings.ingest.ocr, _bytes_of(image) or b"")
        except BadReading as exc:
            raise BadImage(str(exc)) from exc

    def close(self) -> None:
        """Once the questions that are being answered have been. It opens anew with the next one."""
        with self._swap:
            before = self._live
            self._forget()
        if before.made:
            before().close()

    def _opened(self) -> LiveIndex:
        with self._swap:  # else a close would not see what is just being made
            return self._live()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        live = Lazy[LiveIndex](
            lambda: LiveIndex(Index(self.directory, self.settings.index), self.settings.search)
        )
        self._live = live
        self._answerer = Lazy[Answerer](lambda: local_answerer(live().index, live(), self.settings))

    def _query(
        self, text: str | None, image: Picture | None, mode: Mode, k: int, where: Where | None
    ) -> Query:
        parsed = None
        if where is not None:
            parsed = filters.parse(where) if isinstance(where, str) else filters.all_equal(where)
            filters.check(parsed, self._opened().index.manifest().metadata_types)
        return Query(text, _bytes_of(image), mode, k, parsed)


def _bytes_of(image: Picture | None) -> bytes | None:
    return read_named(image) if isinstance(image, Path | str) else image


def _preview(index: Index, hit: Hit) -> Preview | None:
    return preview_at(index.previews, hit.image_uri) if hit.image_uri else None


def local_answerer(index: Index, retriever: FindsHits, settings: Settings) -> Answerer:
    """Answers in this process, by transformers. Raises UsageError where vLLM is asked for."""
    if settings.generator.engine == "vllm":
        raise UsageError(
            "generator.engine vllm answers in a server only: start `mmrag serve`, name one that is up with "
            "`mmrag ask --server URL`, or set transformers"
        )
    from pipelines.core.engine import TransformersEngine
    from pipelines.core.generator import load_profile

    profile, engine = load_profile(settings.generator), TransformersEngine(settings.generator)
    searcher = LocalSearcher(retriever)
    return Answerer(searcher, engine, partial(_preview, index), profile, settings.answer, settings.generator)
