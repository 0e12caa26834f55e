"""Hybrid retrieval: branches side by side, fused by how far hits stand out. Knows no vendor and no Ray.

Four branches: `image_to_image` and `text_to_image` search pictures, `text` and `lexical` search
chunks. An `aligner`, where one is configured, reorders the pictures of the first two by the
question's text; its ranking then stands for that of `text_to_image`. A chunk credits the pictures it
is linked to with its own rank and score, so fusion runs over pictures and unlinked chunks. Where
`search.ocr` is on, what stands in a question's picture is searched as words, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Final, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.aligner import Aligner, AlignerConfig, Asked, Candidates, top
from pipelines.core.asked_pictures import AskedPictures
from pipelines.core.cache import VectorCache
from pipelines.core.characters import unfit
from pipelines.core.embedder import Embedder
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadReading, StoreUnavailable, UsageError
from pipelines.core.filter_forms import without
from pipelines.core.filters import Filter
from pipelines.core.fusion import RANK_CONSTANT, fuse, margins, reciprocal, side_weights
from pipelines.core.hits import best_of, credited_ranks, first_hits
from pipelines.core.lanes import Lanes
from pipelines.core.ocr_config import QuestionOcrConfig
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.core.types import Found, Hit, Line, Part, SearchResult
from pipelines.core.words_held import by_words_held

Mode = Literal["auto", "text", "image", "visually_similar"]
Branch = Literal["image_to_image", "text_to_image", "text", "lexical", "aligner"]
Step = Literal[Branch, "reading"]
"""`reading` is OCR of the question's picture: told where it failed, and finds nothing by itself."""
_PICTURES: Final = "pictures"  # of passages, which are fetched at the end

MODES: tuple[Mode, ...] = get_args(Mode)
VISUAL: tuple[Branch, ...] = ("image_to_image", "text_to_image")
TEXT: tuple[Branch, ...] = ("text", "lexical")
MAX_K = 1000
Run = TypeVar("Run")
Watch = Callable[[Branch, NDArray[np.float32]], None]
"""Is shown the vector (D,) that a branch searches with, in the branch's thread."""
_REMEMBERED_QUESTIONS = 128
_THREADS: Final = 32
"""Of each branch, and of what else waits for a store: one that hangs has these, and no others. As many as a
server lets questions in (`serve.max_concurrent`), so that one waits for a store and not for a thread."""
_AFTER: Final = 1 / 4
"""Of a search's time: what follows the branches has so much, also where one of them took all of it."""


class SearchConfig(BaseModel):
    """How branches are weighed. α is the share of the visual side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fusion: Literal["margins", "ranks"] = Field(
        "margins",
        description="by how far scores stand out, or by ranks alone (RRF; its α_text was .3, α_image .7)",
    )
    alpha_text: float = Field(0.6, ge=0, le=1, description="α for a text query")
    alpha_image: float = Field(0.9, ge=0, le=1, description="α with a picture")
    alpha_similar: float = Field(0.9, ge=0, le=1, description="α in visually_similar")
    lexical_share: float = Field(
        0.67, gt=0, lt=1, description="of the text side: words, beside vectors of passages"
    )
    image_share: float = Field(
        0.9, gt=0, lt=1, description="of the visual side: looks, beside what the words say a picture shows"
    )
    ocr: QuestionOcrConfig = Field(
        QuestionOcrConfig(), description="of a question's picture, in mode auto: its words are searched, too"
    )
    rank_constant: int = Field(RANK_CONSTANT, ge=0, description="of fusion by ranks: c of 1 / (c + rank)")
    candidates: int = Field(50, ge=1, le=MAX_K, description="asked of each branch, at least k")
    branch_timeout_s: float = Field(
        30.0, gt=0, description="a later one is left out; the aligner after them has a quarter more at least"
    )
    near_duplicates: Literal["show", "collapse"] = Field(
        "show", description="of pictures that look the same, as ingest reported, all or the best hit alone"
    )
    aligner: AlignerConfig = AlignerConfig()


@dataclass(frozen=True, slots=True)
class Query:
    """A question: text, the bytes of a picture, or both.

    `timeout_s`: of its branches, where it is less than the settings'. `is_probe`: no user asks it, and
    `Knowledge.watch` is not shown it.
    """

    text: str | None = None
    image: bytes | None = None
    mode: Mode = "auto"
    k: int = 10
    where: Filter | None = None
    timeout_s: float = math.inf
    is_probe: bool = False


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a retriever searches. Each is a loader, called when a branch first needs it."""

    encoder: Callable[[], Encoder]
    embedder: Callable[[], Embedder]
    visual: Callable[[], VectorStore]
    text: Callable[[], VectorStore]
    lexical: Callable[[], LexicalStore]
    image_cache: Callable[[], VectorCache]
    image_uri: Callable[[Part], str]
    lines: Callable[[Part], Sequence[Line]] = lambda picture: ()
    likeness: Callable[[], Mapping[str, str]] = dict
    aligner: Callable[[], Aligner | None] = lambda: None
    read: Callable[[bytes], str] | None = None
    watch: Watch = lambda branch, vector: None


@dataclass(frozen=True, slots=True)
class BranchRun:
    """What one branch returned and how long it took; `failure` says why it has nothing to offer. `floor`: the
    score that tells nothing."""

    found: Sequence[Found]
    elapsed_s: float
    failure: str = ""
    floor: float = 0.0


class _BranchUnfit(Exception):
    """A branch that cannot answer this query; the message goes into `degraded`."""


def plan(query: Query) -> tuple[Branch, ...]:
    """The branches that answer a query. Raises UsageError for a query that makes no sense."""
    has_text, has_image = bool(query.text and query.text.strip()), query.image is not None
    if not (has_text or has_image):
        raise UsageError("the query is empty: give a text, a picture or both")
    if fault := unfit(query.text or ""):
        raise UsageError(f"the query's text {fault}")
    if not 1 <= query.k <= MAX_K:
        raise UsageError(f"k is {query.k}; it must be from 1 to {MAX_K}")
    if query.mode not in MODES:
        raise UsageError(f"mode is {query.mode!r}; it must be one of {', '.join(MODES)}")
    if query.mode == "text" and not has_text:
        raise UsageError("mode text needs a text")
    if query.mode in ("image", "visually_similar") and not has_image:
        raise UsageError(f"mode {query.mode} needs a picture")
    use_text = has_text and query.mode != "image"
    use_image = has_image and query.mode != "text"
    leans_on_picture = query.mode == "visually_similar"
    wanted: dict[Branch, bool] = {
        "image_to_image": use_image,
        "text_to_image": use_text and not leans_on_picture,
        "text": use_text,
        "lexical": use_text,
    }
    return tuple(branch for branch, on in wanted.items() if on)


class Retriever:
    """Answers queries. Safe to call from several threads; close it to end its own."""

    def __init__(self, knowledge: Knowledge, config: SearchConfig) -> None:
        self._knowledge = knowledge
        self._config = config
        self.pictures = AskedPictures(knowledge.image_cache, knowledge.encoder)
        # A branch and the aligner want the same vectors of one question.
        self._visual_of = lru_cache(_REMEMBERED_QUESTIONS)(self._encode_text)
        self._text_of = lru_cache(_REMEMBERED_QUESTIONS)(self._embed_text)
        names = (*get_args(Step), _PICTURES)
        self._lanes = Lanes(names, _THREADS, config.branch_timeout_s)

    def search(self, query: Query) -> SearchResult:
        """Hits for a query, best first.

        A branch whose store is down or hangs, that runs out of time or cannot read the language is named in
        `degraded`; StoreUnavailable is raised when every branch failed. Raises UsageError, BadImage.
        """
        return self.fused(query, self.run_branches(query))

    def fused(self, query: Query, runs: Mapping[Step, BranchRun]) -> SearchResult:
        """The hits that runs of branches make together. One run alone gives that branch's own ranking.

        Raises StoreUnavailable when every run failed.
        """
        degraded = tuple(f"{step}: {run.failure}" for step, run in runs.items() if run.failure)
        answered = {step: run for step, run in runs.items() if step != "reading" and not run.failure}
        if not answered:
            raise StoreUnavailable("no branch could answer: " + "; ".join(degraded))
        hits, unfetched = self._fuse(query, answered)
        return SearchResult(hits, degraded + unfetched)

    def run_branches(self, query: Query) -> dict[Step, BranchRun]:
        """Run the query's branches concurrently, each within the deadline; then the aligner's. Those that
        search words wait until its picture is read."""
        timeout_s = self._timeout_s(query)
        deadline = time.monotonic() + timeout_s
        branches, runs = plan(query), dict[Step, BranchRun]()
        reading = self._lanes.submit("reading", self._read, query.image) if self._is_read(query) else None
        futures = {
            branch: self._lanes.submit(branch, self.run_branch, branch, query)
            for branch in branches
            if not (reading and branch in TEXT)
        }
        if reading:
            self._lanes.wait([reading], deadline - timeout_s / 2)  # the rest is for what waits for it
            words = self._collect(reading, timeout_s)
            if isinstance(words, BranchRun):
                runs["reading"], words = words, ""
            asked = replace(query, text=" ".join(filter(None, (words, query.text))))
            for branch in TEXT if words else (branch for branch in branches if branch in TEXT):
                futures[branch] = self._lanes.submit(branch, self.run_branch, branch, asked)
        self._lanes.wait(futures.values(), deadline)
        runs |= {branch: self._collect(future, timeout_s) for branch, future in futures.items()}
        if aligner := self._aligner_of(query):
            aligned = self._lanes.submit("aligner", self._aligned, aligner, query.text or "", runs)
            self._lanes.wait([aligned], max(deadline, time.monotonic() + timeout_s * _AFTER))
            if run := self._collect(aligned, timeout_s):
                runs["aligner"] = run
        return runs

    def close(self) -> None:
        self._lanes.close()

    def _timeout_s(self, query: Query) -> float:
        return min(query.timeout_s, self._config.branch_timeout_s)

    def _collect(self, future: Future[Run], timeout_s: float) -> Run | BranchRun:
        if future.cancelled():
            return BranchRun((), 0.0, "still busy with earlier questions")
        if not future.done():
            return BranchRun((), timeout_s, f"no answer within {timeout_s:g} s")
        return future.result()

    def run_branch(self, branch: Branch, query: Query) -> BranchRun:
        """Run one branch here and now. Its own failure is described, not raised."""
        start, failure = time.perf_counter(), ""
        found: Sequence[Found] = ()
        floor = 0.0
        try:
            found = self._run(branch, query)
            floor = self._floor(branch, query, found)
        except (StoreUnavailable, _BranchUnfit) as exc:
            failure = str(exc)
        return BranchRun(found, time.perf_counter() - start, failure, floor)

    def _is_read(self, query: Query) -> bool:
        """Modes that name what to search with are taken at their word."""
        return self._knowledge.read is not None and query.mode == "auto" and query.image is not None

    def _read(self, picture: bytes) -> str | BranchRun:
        """The words in a picture; of one that cannot be read, why."""
        assert self._knowledge.read
        start = time.perf_counter()
        try:
            return self._knowledge.read(picture)
        except BadReading as exc:
            return BranchRun((), time.perf_counter() - start, str(exc))

    def _asked(self, query: Query) -> int:
        return max(query.k, self._config.candidates)

    def _floor(self, branch: Branch, query: Query, found: Sequence[Found]) -> float:
        """The score that tells nothing. Of passages the embedder says it; of words and of pictures it is the
        last of many: "What is the noise?" is asked of each plate alike, and two pictures always have some
        cosine. Where less was found than was asked for, it is 0: no word in common, or no more pictures.
        """
        if branch == "text" and (floor := self._knowledge.embedder().floor) > -1.0:
            return floor
        is_full = len(found) >= self._asked(query)
        if branch in ("lexical", "image_to_image") and not is_full:
            return 0.0
        return found[-1].score if found else 0.0

    def _run(self, branch: Branch, query: Query) -> Sequence[Found]:
        n = self._asked(query)
        know = self._knowledge
        text = query.text or ""
        # Whatever `kind` is asked for: a passage may be credited to its pictures.
        passages = without(query.where, "kind")
        if branch == "lexical":
            return by_words_held(text, know.lexical().search(text, n, passages))
        if branch == "image_to_image":
            views_VD = self.pictures.vectors(query.image or b"")
            self._watch(branch, query, views_VD[0])
            return best_of([know.visual().search(view, n, query.where) for view in views_VD], n)
        vector = self._text_of(text) if branch == "text" else self._visual_of(text)
        self._watch(branch, query, vector)
        if branch == "text":
            found = know.text().search(vector, n, passages)
            floor = know.embedder().floor
            return [f for f in found if f.score >= floor]
        return know.visual().search(vector, n, query.where)

    def _watch(self, branch: Branch, query: Query, vector: NDArray[np.float32]) -> None:
        if not query.is_probe:
            self._knowledge.watch(branch, vector)

    def _aligner_of(self, query: Query) -> Aligner | None:
        """The aligner, if there is one and the query has a text and does not lean on its picture."""
        leans = query.mode in ("image", "visually_similar")
        has_text = query.text is not None and query.text.strip()
        return self._knowledge.aligner() if has_text and not leans else None

    def _aligned(self, aligner: Aligner, text: str, runs: Mapping[Step, BranchRun]) -> BranchRun | None:
        """The first pictures of the visual branches by relevance to the text, then the rest of
        `text_to_image`; None where there is nothing to align."""
        first = self._config.aligner.candidates
        ranked = {b: run.found for b, run in runs.items() if b in VISUAL and run.found}
        if not ranked or not self._knowledge.encoder().reads(text):
            return None
        start, failure = time.perf_counter(), ""
        order: list[Found] = []
        try:
            candidates = {f.part.key: f for found in ranked.values() for f in found[:first]}
            vectors = self._knowledge.visual().vectors(list(candidates))
            keys = [key for key in candidates if key in vectors]  # another one was deleted meanwhile
            asked = Asked(text, self._visual_of(text), self._text_of(text))
            if keys:
                shown = np.stack([vectors[key] for key in keys])
                contents = tuple(candidates[key].part.content for key in keys)
                [scores] = aligner.relevance([asked], [Candidates(shown, contents)])
                best_first = top(scores, len(keys))
                order = [replace(candidates[keys[at]], score=float(scores[at])) for at in best_first]
            judged = {f.part.key for f in order}
            order += [f for f in ranked.get("text_to_image", ()) if f.part.key not in judged]
        except StoreUnavailable as exc:
            failure = str(exc)
        return BranchRun(order, time.perf_counter() - start, failure)

    def _embed_text(self, text: str) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._knowledge.embedder().embed_queries([text])[0]
        return vector

    def _encode_text(self, text: str) -> NDArray[np.float32]:
        encoder = self._knowledge.encoder()
        if not encoder.has_text_tower:
            raise _BranchUnfit("this index has no text-to-picture space (pooling mean)")
        if not encoder.reads(text):
            raise _BranchUnfit(f"{encoder.model.name} does not read the language of the question")
        vector: NDArray[np.float32] = encoder.encode_texts([text])[0]
        return vector

    def _alpha(self, query: Query, branches: Sequence[str]) -> float:
        if query.mode == "visually_similar":
            return self._config.alpha_similar
        return self._config.alpha_image if "image_to_image" in branches else self._config.alpha_text

    @property
    def _shares(self) -> dict[str, float]:
        """Of each branch on its side. An aligner has that of `text_to_image`, whose place it takes."""
        looks, words = self._config.image_share, self._config.lexical_share
        visual = {"image_to_image": looks, "text_to_image": 1 - looks, "aligner": 1 - looks}
        return visual | {"text": 1 - words, "lexical": words}

    def _fuse(
        self, query: Query, runs: Mapping[Branch, BranchRun]
    ) -> tuple[tuple[Hit, ...], tuple[str, ...]]:
        found: dict[str, Sequence[Found]] = {branch: run.found for branch, run in runs.items()}
        replaced = {"text_to_image"} if "aligner" in found else set()
        shares: dict[str, float] = {
            b: share for b, share in self._shares.items() if b in found and b not in replaced
        }
        text = {str(branch): shares.pop(branch) for branch in TEXT if branch in shares}
        weights = side_weights(self._alpha(query, list(found)), shares, text) | dict.fromkeys(replaced, 0.0)
        ranks = {branch: credited_ranks(results, query.where) for branch, results in found.items()}
        worth = {str(branch): self._worth(branch, runs) for branch in runs}
        like = self._knowledge.likeness() if self._config.near_duplicates == "collapse" else {}
        fetch = partial(self._pictures, within_s=self._timeout_s(query) * _AFTER)
        fused = fuse(ranks, weights, worth)
        return first_hits(fused, found, query.k, self._knowledge, fetch, like, query.where)

    def _pictures(self, keys: Sequence[str], within_s: float) -> Mapping[str, Part]:
        """Raises StoreUnavailable, at the latest after `within_s`: the store may be one that hangs."""
        fetching = self._lanes.submit(_PICTURES, lambda: self._knowledge.visual().fetch(keys))
        self._lanes.wait([fetching], time.monotonic() + within_s)
        parts = self._collect(fetching, within_s)
        if isinstance(parts, BranchRun):
            raise StoreUnavailable(parts.failure)
        return parts

    def _worth(self, branch: Branch, runs: Mapping[Branch, BranchRun]) -> list[float]:
        """What each rank of a branch is worth. An aligner gives an order alone: its ranks are worth what
        those of the order that it replaces are."""
        run = runs[branch]
        if self._config.fusion == "ranks":
            return reciprocal(len(run.found), self._config.rank_constant)
        if branch != "aligner":
            return margins([one.score for one in run.found], run.floor)
        replaced = (
            self._worth("text_to_image", runs) if "text_to_image" in runs else reciprocal(len(run.found))
        )
        return [*replaced, *[0.0] * len(run.found)][: len(run.found)]
