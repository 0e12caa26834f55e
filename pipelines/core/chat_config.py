"""Settings of a model behind any API of OpenAI's form: how it is reached and asked. Asks nothing."""

from __future__ import annotations

from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr


def _without_user(address: str) -> str:
    """The address stands in messages and reports; the key has a setting of its own, which does not."""
    parts = urlsplit(address)
    if "@" in parts.netloc or parts.query:
        raise ValueError("names a user or a query in the address: set api_key instead")
    return address.rstrip("/")


class ChatConfig(BaseModel):
    """`POST {url}/chat/completions`. A subclass says what the model is to us, and where its key may stand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: ClassVar[str]
    key_variable: ClassVar[str]

    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_without_user)] = Field(
        description="such as http://127.0.0.1:8000/v1"
    )
    model: str = Field(min_length=1)
    api_key: SecretStr | None = None
    timeout_s: float = Field(60.0, gt=0, description="for one reply")
    max_tokens: int = Field(256, ge=1, description="of a reply; one that thinks aloud needs more")
    retries: int = Field(4, ge=0, le=20, description="of a request that met 429, 5xx or no answer")
    max_wait_s: float = Field(60.0, ge=0, description="before a retry, whatever Retry-After says")
    concurrency: int = Field(4, ge=1, le=64, description="requests at once")
