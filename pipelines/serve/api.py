"""The bodies of /v1/search and /v1/answer, and hits as clients see them. Knows nothing of OpenAI's form."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.core import filters
from pipelines.core.characters import unfit
from pipelines.core.filter_forms import answerable
from pipelines.core.filters import Filter
from pipelines.core.previews import content_of
from pipelines.core.prompts import IMAGE_TOKEN, Turn
from pipelines.core.retriever import MAX_K, Mode
from pipelines.core.types import Answer, Hit, SearchResult, answer_dict, result_dict
from pipelines.serve.faults import public

IMAGES: Final = "/v1/images/"
CONTENT: Final = r"^[0-9a-f]{64}$"
REQUEST_ID: Final = r"[A-Za-z0-9._-]{1,64}"
PNG: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElF"
    "TkSuQmCC"
)
_LONGEST_TEXT: Final = 1_000_000


def sound(text: str) -> str:
    if fault := unfit(text):
        raise ValueError(f"the text {fault}")
    return text


SaidTurn = tuple[Literal["user", "assistant"], str]
Text = Annotated[str, Field(max_length=_LONGEST_TEXT), AfterValidator(sound)]


class Strict(BaseModel):
    """A field that is not there is an error, and so is "5" for 5."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class HistoryTurn(Strict):
    role: Literal["user", "assistant"]
    content: Text


class SearchRequest(Strict):
    """What is looked for: words, a picture, or both."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "hole spacing of the heat sink", "filter": "year >= 2020", "k": 5},
                {"query": "散热器的孔距", "image": PNG, "mode": "visually_similar"},
            ]
        }
    )

    query: Text | None = Field(None, description="words, in Chinese or English")
    image: str | None = Field(None, description="a picture as data URI, `data:image/png;base64,...`")
    mode: Mode = Field("auto", description="auto: by what is given")
    k: int = Field(10, ge=1, le=MAX_K, description="hits wanted, at most; the server may allow fewer")
    filter: Annotated[str, Field(max_length=filters.MAX_LENGTH), AfterValidator(sound)] | None = Field(
        None, description='such as `product_id == "A1" and year >= 2020`'
    )


class AnswerRequest(SearchRequest):
    """A question in words, by a picture, or both, and what was said before it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How far apart are the holes?", "image": PNG, "annotate": True},
                {
                    "query": "那它的重量呢？",
                    "history": [
                        {"role": "user", "content": "散热器的孔距是多少？"},
                        {"role": "assistant", "content": "孔距为 40 mm [1]。"},
                    ],
                },
            ]
        }
    )

    history: list[HistoryTurn] = Field(
        [], max_length=1000, description="the conversation so far, oldest first"
    )
    annotate: bool = Field(False, description="also give the pictures with their boxes drawn")


class FeedbackRequest(Strict):
    """Whether an answer was good."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"request_id": "7f0c2b1e-5d0f-4a53-9b1c-2f6f0a4d3c11", "rating": "up"}]
        }
    )

    request_id: str = Field(pattern=f"^{REQUEST_ID}$", description="`X-Request-Id` of the answer's response")
    rating: Literal["up", "down"]


class LineBody(BaseModel):
    text: str
    xyxy: tuple[float, float, float, float] = Field(description="pixels of the upright original")
    confidence: float


class HitBody(BaseModel):
    id: str
    document_id: str
    kind: Literal["image", "chunk"]
    score: float
    text: str
    source: str = Field(description="where the document came from; of a file of the server's its name")
    image_uri: str | None = Field(description="path of the picture's preview on this server")
    metadata: dict[str, str | int | float | bool | None]
    citation_id: int
    sources: dict[str, int] = Field(description="each branch that found it, and its rank there")
    lines: list[LineBody] = Field(description="lines of `text` that were read in the picture (OCR)")
    scores: dict[str, float] = Field(
        description="each branch's own score of it, comparable within the branch"
    )
    tenant: str = Field(description="whose document it is; its id is one tenant's")


class SearchResponse(BaseModel):
    hits: list[HitBody]
    degraded: list[str] = Field(description="what failed or was left out on the way")


class CitationBody(BaseModel):
    n: int
    hit_id: str


class BoxBody(BaseModel):
    image: Literal["query"] | int = Field(description="the question's picture, or that of hit `citation_id`")
    xyxy: tuple[float, float, float, float] = Field(description="pixels of the upright original")
    label: str


class AnnotatedBody(BaseModel):
    image: Literal["query"] | int
    data_uri: str


class UsageBody(BaseModel):
    prompt_tokens: int = Field(description="of the question with its evidence, pictures included")
    completion_tokens: int = Field(description="that the model wrote")
    cut: bool = Field(description="it had more to say than generator.max_tokens")


class AnswerResponse(BaseModel):
    answer: str
    citations: list[CitationBody]
    boxes: list[BoxBody]
    hits: list[HitBody] = Field(description="the evidence, numbered by citation_id")
    degraded: list[str]
    timings_ms: dict[str, float]
    refused: bool = Field(description="the evidence does not hold the answer")
    dropped: dict[str, int] = Field(description="citations and boxes that pointed at nothing")
    usage: UsageBody = Field(description="tokens; zero where no model was asked")
    annotated: list[AnnotatedBody] | None = None


class ErrorDetail(BaseModel):
    message: str
    type: str


class ErrorBody(BaseModel):
    error: ErrorDetail


class HealthBody(BaseModel):
    status: Literal["ok", "degraded", "unavailable"]
    parts: dict[str, str] = Field(description='each part: "ok", or what is wrong')


def parse_filter(text: str | None, types: Mapping[str, str], tenant: str | None) -> Filter | None:
    """Raises FilterError; to a caller with a tenant it does not tell what fields there are, some of which may
    be of other tenants alone."""
    if text is None:
        return None
    where = filters.parse(text)
    if tenant is not None:
        return answerable(where, types)
    filters.check(where, types)
    return where


def history_turns(said: Sequence[SaidTurn], most: int, longest: int) -> tuple[Turn, ...]:
    """The last turns, alternating from a user's on: what one side said in several turns is one turn. Each is
    cut to `longest` characters."""
    turns: list[Turn] = []
    for role, text in said[-2 * most :]:
        plain = text[:longest].replace(IMAGE_TOKEN, " ")
        if turns and turns[-1].role == role:
            turns[-1] = Turn(role, "\n".join(filter(None, (turns[-1].text, plain))))
        elif turns or role == "user":
            turns.append(Turn(role, plain))
    kept = turns[-most:] if most else []
    return tuple(kept[1:] if kept and kept[0].role == "assistant" else kept)


def picture_of(hit: Hit) -> str | None:
    """The SHA-256 that names a hit's picture."""
    content = content_of(hit.image_uri or "")
    return content if re.fullmatch(CONTENT, content) else None


def search_body(result: SearchResult) -> dict[str, Any]:
    return _outward(result_dict(result), result.hits, result.degraded)


def answer_body(answer: Answer) -> dict[str, Any]:
    return _outward(answer_dict(answer), answer.hits, answer.degraded)


def _outward(body: dict[str, Any], hits: Sequence[Hit], degraded: Sequence[str]) -> dict[str, Any]:
    return body | {
        "hits": [_hit(found, hit) for found, hit in zip(body["hits"], hits, strict=True)],
        "degraded": [public(reason) for reason in degraded],
    }


def _hit(found: dict[str, Any], hit: Hit) -> dict[str, Any]:
    content = picture_of(hit)
    return found | {
        "source": _source(hit.source),
        "image_uri": IMAGES + content if content else None,
        "metadata": {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in hit.metadata.items()
        },
    }


def _source(source: str) -> str:
    """An address as it is; of a file on this machine the name, for its folders are nobody's business."""
    is_file = source.startswith("/") or source.lower().startswith("file:")
    return PurePath(source).name if is_file else source
