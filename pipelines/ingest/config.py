"""Settings of the ingest job."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.sources import SourceConfig


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


class IngestConfig(BaseModel):
    """How a corpus is read and how the job is sized.

    With `encoders` 0 there is one for each GPU of the cluster; where there is none, up to eight share
    out the cores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: SourceConfig = SourceConfig()
    chunking: ChunkConfig = ChunkConfig()
    ocr: OcrConfig = OcrConfig()
    ray_address: str = Field("", description="a running Ray cluster; empty: RAY_ADDRESS, or start one here")
    encoders: int = Field(0, ge=0, le=4096)
    encoder_threads: int = Field(
        0, ge=0, le=1024, description="threads of a CPU encoder; 0: its share of the cores"
    )
    encoder_batch: int = Field(64, ge=1, le=4096, description="rows handed to an encoder at once")
    load_batch: int = Field(32, ge=1, le=4096, description="pictures decoded by one call")
    buffer_mb: int = Field(
        160, ge=32, le=2**20, description="pixels that wait for each encoder, in MiB of shared memory"
    )
    writers: int = Field(
        4, ge=1, le=256, description="parallel writers on server stores; embedded ones have 1"
    )
    rows_per_write: int = Field(512, ge=1, le=100_000)
    store_patience_s: float = Field(
        300.0, ge=0, description="for a store that stops answering during the job; one that never did ends it"
    )
    near_duplicates: Literal["report", "off"] = Field(
        "report", description="look for pictures that look the same: near-duplicates.parquet of the index"
    )
    near_duplicate_bits: int = Field(
        4, ge=0, le=8, description="of their 64-bit perceptual hashes that may differ"
    )
    max_pruned_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of a source's documents that --prune deletes in one run, if they are more than 100",
    )
    max_rejected_fraction: float = Field(1.0, ge=0, le=1, description="above it the job fails")
