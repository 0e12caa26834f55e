"""OpenAI's form of a question and its answer: chat completions, whole and in chunks. Knows no HTTP.

Of the conversation, the last user message is the question; what was said before it is history, in words.
Fields that this server has no use for are ignored, as OpenAI's clients send many; so are messages of the
system and its developer, for the prompt that asks for citations is fixed, and those of tools and their
calls.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.answer import Retrieved
from pipelines.core.errors import UsageError
from pipelines.core.generator import Sampling
from pipelines.core.retriever import MAX_K, Mode
from pipelines.core.types import Answer, SearchResult
from pipelines.serve.api import PNG, BoxBody, HitBody, SaidTurn, Text, answer_body, search_body
from pipelines.serve.faults import NotFound


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class TextPart(_Read):
    type: Literal["text"]
    text: Text


class ImageUrl(_Read):
    url: str = Field(description="a data URI, `data:image/png;base64,...`")


class ImagePart(_Read):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Read):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None

    @property
    def words(self) -> str:
        if not isinstance(self.content, list):
            return self.content or ""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def pictures(self) -> list[str]:
        if not isinstance(self.content, list):
            return []
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


class StreamOptions(_Read):
    include_usage: bool | None = Field(False, description="the tokens it took, before [DONE]")


class ChatRequest(_Read):
    """OpenAI's chat completion request, with `mode`, `k` and `filter` of /v1/search beside it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "tiny-llava", "messages": [{"role": "user", "content": "散热器的孔距是多少？"}]},
                {
                    "model": "tiny-llava",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "Which product is this?"},
                                {"type": "image_url", "image_url": {"url": PNG}},
                            ],
                        }
                    ],
                    "filter": "year >= 2020",
                    "stream": True,
                },
            ]
        }
    )

    model: Text | None = Field(None, description="one of /v1/models; null: the first of them")
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="of the answer; never more than the server's own")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same by its newer name")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=1, description="one answer a question")
    mode: Mode = "auto"
    k: int = Field(10, ge=1, le=MAX_K)
    filter: Text | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The question in a conversation: words, a picture's URI, and the turns before it."""

    text: str
    picture: str | None
    history: tuple[SaidTurn, ...]


def asked(messages: Sequence[Message], max_pictures: int) -> Asked:
    """Raises UsageError."""
    *earlier, last = messages
    if last.role != "user":
        raise UsageError("the last message must be the user's: it is the question")
    if len(last.pictures) > 1:
        raise UsageError(f"send one picture with a question; there are {len(last.pictures)}")
    total = sum(len(message.pictures) for message in messages)
    if total > max_pictures:
        raise UsageError(f"the conversation holds {total} pictures; at most {max_pictures} are allowed")
    history = tuple(
        (message.role, message.words)
        for message in earlier
        if message.role == "user" or (message.role == "assistant" and message.words)
    )
    return Asked(last.words, next(iter(last.pictures), None), history)


def model_and_adapter(name: str | None, models: Sequence[str]) -> tuple[str, str]:
    """The model's name in full, and the adapter in it (`base:adapter`). Raises NotFound."""
    if name is None:
        name = models[0] if models else ""
    if name not in models:
        raise NotFound(f"there is no model {name[:100]!r} here; there is {', '.join(models) or 'none'}")
    base = max((base for base in models if name.startswith(f"{base}:")), key=len, default=None)
    return name, name[len(base) + 1 :] if base is not None else ""


def sampling(request: ChatRequest, adapter: str, usual: Sampling) -> Sampling:
    """The server's own where the request says nothing."""
    wanted = [n for n in (request.max_tokens, request.max_completion_tokens) if n is not None]
    return replace(
        usual,
        max_tokens=min([*wanted, usual.max_tokens]),
        temperature=usual.temperature if request.temperature is None else request.temperature,
        top_p=usual.top_p if request.top_p is None else request.top_p,
        adapter=adapter,
    )


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion: what all its chunks have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.answer, "refusal": None} | evidence(answer)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
        return self._of("chat.completion", [choice]) | {"usage": _usage(answer)}

    def first(self, found: Retrieved | None) -> dict[str, Any]:
        """With the evidence: it can be looked at while the answer is written."""
        told = search_body(SearchResult(found.hits, found.degraded)) if found else {}
        return self._chunk({"role": "assistant", "content": ""} | told)

    def piece(self, text: str) -> dict[str, Any]:
        return self._chunk({"content": text})

    def last(self, answer: Answer) -> dict[str, Any]:
        return self._chunk(evidence(answer), _finish_reason(answer))

    def usage(self, answer: Answer) -> dict[str, Any]:
        return self._of("chat.completion.chunk", []) | {"usage": _usage(answer)}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._of("chat.completion.chunk", [choice])

    def _of(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def _finish_reason(answer: Answer) -> str:
    return "length" if answer.usage.cut else "stop"


def _usage(answer: Answer) -> dict[str, int]:
    asked, said = answer.usage.prompt_tokens, answer.usage.completion_tokens
    return {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said}


def evidence(answer: Answer) -> dict[str, Any]:
    """What a message says beside its words."""
    body = answer_body(answer)
    by_number = {hit["citation_id"]: hit for hit in body["hits"]}
    shown = ("document_id", "source", "image_uri", "text")
    citations = [
        citation | {name: by_number[citation["n"]][name] for name in shown} for citation in body["citations"]
    ]
    return {"citations": citations} | {
        name: body[name] for name in ("boxes", "hits", "degraded", "timings_ms", "refused")
    }


class ChatCitation(BaseModel):
    n: int
    hit_id: str
    document_id: str
    source: str
    image_uri: str | None
    text: str


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None = None
    citations: list[ChatCitation]
    boxes: list[BoxBody]
    hits: list[HitBody]
    degraded: list[str]
    timings_ms: dict[str, float]
    refused: bool


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


class ModelBody(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "mmrag"


class ModelsBody(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelBody]
