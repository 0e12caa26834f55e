"""Settings of the ingest job."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.chat_config import ChatConfig, Secret
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.switches import MAY_BE_OFF
from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.sources import SourceConfig


class CaptionConfig(ChatConfig):
    """A model that describes pictures, behind any API of OpenAI's form that takes them (`POST
    {url}/chat/completions`), such as vLLM's own server; `mmrag serve` answers from its index and is refused.

    A caption that fails is a dead letter, and costs its document nothing else; a server that went away is
    waited for, then the job ends.
    """

    who: ClassVar[str] = "the captioner"
    key_variable: ClassVar[str] = "MMRAG_INGEST__CAPTIONS__API_KEY"

    api_key: Secret | None = Field(None, description="meant for MMRAG_INGEST__CAPTIONS__API_KEY")
    prompt: str = Field(
        "Describe this picture in one or two sentences for someone who searches for it: what it shows, and "
        "the names, labels and numbers that stand in it.",
        min_length=1,
    )
    pictures: Literal["undescribed", "all"] = Field(
        "undescribed", description="those that have no caption or text of their own, or all"
    )
    max_tokens: int = Field(128, ge=1, description="of a reply; one that thinks aloud needs more")
    max_chars: int = Field(600, ge=1, le=8000, description="kept of a caption")
    retries: int = Field(1, ge=0, le=20, description="of a request that met 429, 5xx or no answer")
    concurrency: int = Field(4, ge=1, le=64, description="pictures asked about at once, by all workers")
    patience_s: float = Field(
        300.0, ge=0, description="for a server that stops answering; one that never did ends the job"
    )


class IngestConfig(BaseModel):
    """How a corpus is read and how the job is sized.

    With `encoders` 0 there is one for each GPU of the cluster; where there is none, up to eight on each node
    share out its cores.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: SourceConfig = SourceConfig()
    chunking: ChunkConfig = ChunkConfig()
    ocr: OcrConfig = OcrConfig()
    captions: CaptionConfig | None = Field(None, description="asked to describe pictures, in words to search")
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
    near_duplicates: Annotated[Literal["report", "off"], MAY_BE_OFF] = Field(
        "report", description="look for pictures that look the same: near-duplicates.parquet of the index"
    )
    near_duplicate_bits: int = Field(
        4, ge=0, le=8, description="of their 64-bit perceptual hashes that may differ"
    )
    max_pruned_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="of a source's documents, and of those of all sources that lost some, that one run "
        "deletes with --prune, or whose pictures it drops, if they are more than 100; 1 also lets pictures "
        "go whose whole folder is missing, or that may not be read any more",
    )
    max_rejected_fraction: float = Field(
        1.0,
        ge=0,
        le=1,
        description="of all parts that the index's sources have, refused in this run or before; above it the "
        "job fails, and writes the rest all the same",
    )
