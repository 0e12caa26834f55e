"""The settings of `train aligner`. Knows nothing of data or torch."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.core.aligner import Kind, check_heads


class AlignerTraining(BaseModel):
    """How an aligner is trained. The defaults are the packaged one's recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = Field("memory", description="what judges a candidate; mlp and qformer add to memory")
    seed: int = 0
    steps: int = Field(300, ge=1)
    batch_size: int = Field(64, ge=1, description="questions a step, of each worker")
    negatives: int = Field(19, ge=1, le=999, description="hardest wrong pictures of each question")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0, description="of a network's matrices")
    dropout: float = Field(0.2, ge=0, lt=1)
    forget: float = Field(
        0.5,
        ge=0,
        le=1,
        description="how often memory knows nothing of what a question names, as of new things",
    )
    memory: int = Field(20_000, ge=1, le=200_000, description="pairs that are remembered, at most")
    held_out: float = Field(0.1, ge=0, lt=1, description="share of an index's documents, for the figures")

    hidden: int = Field(128, ge=8, le=2048)
    layers: int = Field(2, ge=1, le=12)
    heads: int = Field(4, ge=1, le=32)
    queries: int = Field(4, ge=1, le=64)

    num_workers: int = Field(1, ge=1)
    use_gpu: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_heads(self.hidden, self.heads)
        return self
