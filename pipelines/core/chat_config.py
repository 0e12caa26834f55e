"""Settings of a model behind any API of OpenAI's form: how it is reached and asked. Asks nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, SecretStr

_HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
_OURS = frozenset({"model", "messages", "stream"})


def _without_user(address: str) -> str:
    """The address stands in messages and reports; what is secret has settings of its own, which do not."""
    parts = urlsplit(address)
    if "@" in parts.netloc or {name for name, _ in parse_qsl(parts.query, True)} - {"api-version"}:
        raise ValueError("names a user, or more than an api-version in its query: set api_key instead")
    base, mark, query = address.partition("?")
    return base.rstrip("/") + mark + query


def _fits_a_header(secret: SecretStr) -> SecretStr:
    """The client would show another in its message."""
    if not re.fullmatch(r"[!-~]+(?: [!-~]+)*", secret.get_secret_value()):
        raise ValueError("consists of visible ASCII characters, single blanks between them")
    return secret


def _leaves_what_is_ours(body: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    if ours := _OURS & body.keys():
        raise ValueError(f"{', '.join(sorted(ours))}: is set by mmrag")
    return body


Secret = Annotated[SecretStr, AfterValidator(_fits_a_header)]


class ChatConfig(BaseModel):
    """`POST {url}/chat/completions`. A subclass says what the model is to us, and where its key may stand."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    who: ClassVar[str]
    key_variable: ClassVar[str]

    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_without_user)] = Field(
        description="such as http://127.0.0.1:8000/v1"
    )
    model: str = Field(min_length=1)
    api_key: Secret | None = None
    extra_headers: Mapping[Annotated[str, Field(pattern=_HEADER)], Secret] = Field(
        {}, description="of each request, such as {api-key: ...}; hidden like keys"
    )
    extra_body: Annotated[Mapping[str, JsonValue], AfterValidator(_leaves_what_is_ours)] = Field(
        {},
        description="fields of each request besides, or in place of, max_tokens and temperature 0; null "
        "leaves one out, as for models that want {max_tokens: null, temperature: null, "
        "max_completion_tokens: 4000}; not hidden",
    )
    timeout_s: float = Field(60.0, gt=0, description="for one reply")
    max_tokens: int = Field(256, ge=1, description="of a reply; one that thinks aloud needs more")
    retries: int = Field(4, ge=0, le=20, description="of a request that met 429, 5xx or no answer")
    max_wait_s: float = Field(60.0, ge=0, description="before a retry, whatever Retry-After says")
    concurrency: int = Field(4, ge=1, le=64, description="requests at once")
