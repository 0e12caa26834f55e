"""Settings of OCR. Reads nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class OcrConfig(BaseModel):
    """Whether and how pictures are read. Only `max_side` changes what is read of a picture; the others choose
    from it, and reading it again is not needed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "rapidocr"] = "none"
    max_side: int = Field(
        1536,  # of a preview, too
        ge=320,
        le=4096,
        description="long side of what is read; time grows with its square",
    )
    min_confidence: float = Field(0.5, ge=0, le=1, description="of a line, as the reader judges itself")
    max_chars: int = Field(8000, ge=1, description="text kept of one picture; the rest is told")


class QuestionOcrConfig(OcrConfig):
    """Of a question's picture: what stands in it is searched, so less of it is."""

    max_chars: int = Field(1000, ge=1, le=8000, description="searched of what is read, by whole lines")
