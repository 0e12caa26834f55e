"""The records that pass between parts of the system. Values only: frozen, no behaviour beyond naming."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["image", "chunk"]
Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar]

_ID_TAG: dict[Kind, str] = {"image": "img", "chunk": "txt"}
_PART_ID = re.compile(rf".+#({'|'.join(_ID_TAG.values())})-[0-9]+", re.DOTALL)

_SHA256 = re.compile("[0-9a-f]{64}")


def part_id(document_id: str, kind: Kind, ordinal: int) -> str:
    """The readable id of a part: `doc#img-0`, `doc#txt-3`."""
    return f"{document_id}#{_ID_TAG[kind]}-{ordinal}"


def is_part_id(name: str) -> bool:
    """Whether a readable id has a part's form; else it is a document's."""
    return _PART_ID.fullmatch(name) is not None


def is_sha256(text: str) -> bool:
    """Whether it is 64 hex digits in lower case: a content hash, fit for a file's name."""
    return _SHA256.fullmatch(text) is not None


def store_key(tenant: str, readable_id: str) -> str:
    """The primary key in every store, of a document or a part: 32 hex characters.

    A hash of (tenant, id), so a rerun overwrites and equal ids of two tenants never meet.
    """
    identity = f"{len(tenant)}:{tenant}{readable_id}".encode()
    return hashlib.blake2b(identity, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Passage:
    """Running text of a document, before chunking, with the ordinals of the pictures it belongs to.

    `source` is where in the document it stands, for a citation; "" is the document's own source.
    """

    text: str
    images: tuple[int, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One item of the corpus. `images` are addresses; a picture's ordinal is its position there.

    `captions[n]` describes picture n in a few words ("" where nothing does): what a hit shows.
    `readings[n]` are the lines of text that are known to stand in picture n, without a look at it; or there
    are none at all.
    """

    id: str
    source: str
    passages: tuple[Passage, ...] = ()
    images: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    tenant: str = ""
    readings: tuple[tuple[Line, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """An image or a chunk as the stores keep it.

    `text` is a chunk's text, or a picture's caption. `content` is the SHA-256 of a picture's bytes
    and names its preview. `image_ids` are the pictures (of the same document) that a chunk
    captions, was read from or surrounds.
    """

    id: str
    kind: Kind
    document_id: str
    source: str
    text: str = ""
    content: str = ""
    image_ids: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    tenant: str = ""

    @property
    def key(self) -> str:
        return store_key(self.tenant, self.id)

    @property
    def document_key(self) -> str:
        return store_key(self.tenant, self.document_id)

    @property
    def image_keys(self) -> tuple[str, ...]:
        return tuple(store_key(self.tenant, image_id) for image_id in self.image_ids)


@dataclass(frozen=True, slots=True)
class Found:
    """A part that one branch returned, with that engine's own score (comparable within the branch only)."""

    part: Part
    score: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text that was read in a picture, and where it stands: (left, top, right, bottom) in pixels of
    the upright original. `confidence` is the reader's own, from 0 to 1; that of a page's own text is 1."""

    text: str
    xyxy: tuple[float, float, float, float]
    confidence: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A part after fusion: what a user sees. `sources` maps each branch that found it to its rank from 1.

    `lines` are those lines of `text` that were read in the hit's picture. `scores` maps each branch of
    `sources` to its own score, comparable within the branch only: a cosine where pictures or meanings are
    compared, 0 to 1 where words are. `score` is the fused one, which tells the order and nothing else. An id
    is one `tenant`'s.
    """

    id: str
    document_id: str
    kind: Kind
    score: float
    text: str
    source: str
    image_uri: str | None
    metadata: Metadata
    citation_id: int
    sources: Mapping[str, int]
    lines: tuple[Line, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, and the names of what failed or was left out on the way."""

    hits: tuple[Hit, ...]
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """A number in an answer that points at one piece of evidence."""

    n: int
    hit_id: str


@dataclass(frozen=True, slots=True)
class PlacedBox:
    """A box (left, top, right, bottom) in pixels of the upright original of a picture: the question's own, or
    that of evidence number `image`. `label` is what the answer said of it."""

    image: Literal["query"] | int
    xyxy: tuple[float, float, float, float]
    label: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an answer took: `prompt_tokens` with those of its pictures, `completion_tokens` that the
    model wrote. `cut`: it had more to say than `max_tokens`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with its evidence: `hits`, numbered by their `citation_id`.

    `timings_ms` names the stages that ran. `refused`: the evidence does not hold the answer. `dropped` counts
    citations and boxes of the model's that pointed at nothing and were taken out. `usage` is zero where no
    model was asked.
    """

    answer: str
    citations: tuple[Citation, ...]
    boxes: tuple[PlacedBox, ...]
    hits: tuple[Hit, ...]
    degraded: tuple[str, ...]
    timings_ms: Mapping[str, float]
    refused: bool = False
    dropped: Mapping[str, int] = field(default_factory=dict)
    usage: Usage = Usage()


def answer_dict(answer: Answer) -> dict[str, Any]:
    """The object that `ask --json` and `POST /v1/answer` give."""
    return {
        "answer": answer.answer,
        "citations": [asdict(citation) for citation in answer.citations],
        "boxes": [asdict(box) for box in answer.boxes],
        "hits": [asdict(hit) for hit in answer.hits],
        "degraded": list(answer.degraded),
        "timings_ms": dict(answer.timings_ms),
        "refused": answer.refused,
        "dropped": dict(answer.dropped),
        "usage": asdict(answer.usage),
    }


def result_dict(result: SearchResult) -> dict[str, Any]:
    """The object that `search --json` and `POST /v1/search` give."""
    return {"hits": [asdict(hit) for hit in result.hits], "degraded": list(result.degraded)}
