"""How sure a figure is said to be, what entails a statement, and the judge that is asked."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from pipelines.core.entailment import COVERAGE


def _without_user(address: str) -> str:
    """The address stands in messages and reports; the key has a setting of its own, which does not."""
    parts = urlsplit(address)
    if "@" in parts.netloc or parts.query:
        raise ValueError("names a user or a query in the address: set api_key instead")
    return address.rstrip("/")


class JudgeConfig(BaseModel):
    """A model that judges answers, behind any API of OpenAI's form (`POST {url}/chat/completions`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_without_user)] = Field(
        description="such as http://127.0.0.1:8000/v1"
    )
    model: str = Field(min_length=1)
    api_key: SecretStr | None = Field(None, description="meant for MMRAG_EVALUATE__JUDGE__API_KEY")
    timeout_s: float = Field(60.0, gt=0, description="for one reply")
    max_tokens: int = Field(256, ge=1, description="of a reply; one that thinks aloud needs more")
    retries: int = Field(4, ge=0, le=20, description="of a request that met 429, 5xx or no answer")
    max_wait_s: float = Field(60.0, ge=0, description="before a retry, whatever Retry-After says")
    concurrency: int = Field(4, ge=1, le=64, description="answers judged at once")


class EvaluateConfig(BaseModel):
    """The bootstrap behind every interval, and what judges answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    confidence: float = Field(0.95, gt=0, lt=1)
    resamples: int = Field(2000, ge=100, le=100_000)
    seed: int = Field(0, ge=0)
    entailment: Literal["lexical", "judge"] = Field(
        "lexical", description="what says whether evidence supports a statement: its words, or the judge"
    )
    coverage: float = Field(
        COVERAGE,
        gt=0,
        le=1,
        description="share of a statement's words that its evidence must hold, for lexical",
    )
    judge: JudgeConfig | None = Field(None, description="asked for accuracy, completeness, verifiability")

    @model_validator(mode="after")
    def _has_its_judge(self) -> Self:
        if self.entailment == "judge" and self.judge is None:
            raise ValueError("entailment=judge needs a judge: set judge.url and judge.model")
        return self

    @property
    def bootstrap(self) -> dict[str, float]:
        """What the intervals of a report depend on, for the report."""
        return self.model_dump(include={"confidence", "resamples", "seed"})
