"""How sure a figure is said to be, what entails a statement, and the judge that is asked."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.core.chat_config import ChatConfig, Secret
from pipelines.core.entailment import COVERAGE


class JudgeConfig(ChatConfig):
    """A model that judges answers, behind any API of OpenAI's form (`POST {url}/chat/completions`)."""

    who: ClassVar[str] = "the judge"
    key_variable: ClassVar[str] = "MMRAG_EVALUATE__JUDGE__API_KEY"

    api_key: Secret | None = Field(None, description="meant for MMRAG_EVALUATE__JUDGE__API_KEY")
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
