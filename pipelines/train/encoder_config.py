"""The settings of `train encoder`. Knows nothing of data or torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EncoderTraining(BaseModel):
    """How the heads of the `lite` encoder are trained. The defaults are the packaged heads' recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    scales: tuple[int, ...] = Field((96, 160, 224), min_length=1, description="pixels a side")
    dim: int = Field(256, ge=8, le=256, description="of one scale's embedding")
    hidden: int = Field(
        512, ge=0, le=2048, description="width of a hidden layer beside the linear maps; 0: none"
    )

    views: int = Field(
        2, ge=1, le=16, description="versions of a picture: itself, and views - 1 altered ones"
    )
    tag_probability: float = Field(0.4, ge=0, le=1, description="how often a concept is called by a tag")

    steps: int = Field(400, ge=1)
    concepts_per_step: int = Field(512, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    image_dropout: float = Field(0.3, ge=0, lt=1)
    text_dropout: float = Field(0.1, ge=0, lt=1)
    image_to_image: float = Field(
        0.3, ge=0, description="weight of the loss between two pictures of a concept"
    )
    text_to_text: float = Field(0.3, ge=0, description="weight of the loss between two names of a concept")

    extraction_batch: int = Field(8, ge=1, description="pictures; more is no faster on a CPU")
    extraction_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    num_workers: int = Field(1, ge=1, description="Ray Train workers; they share the --out directory")
    use_gpu: bool = False
