"""Pictures and text -> unit vectors of one joint space, at several scales.

Holds the multi-scale rule; the models behind it see one scale at a time. Knows nothing of stores.

The vector of a picture is its unit embedding at each of the S scales, concatenated and divided by
√S; the vector of a text is its unit embedding repeated S times and divided by √S. Both have unit
length, and their dot product is the mean of the per-scale cosines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pipelines.core import images
from pipelines.core.space import Space

Pixels = NDArray[np.uint8]
Vectors = NDArray[np.float32]


class VisualModel(Protocol):
    """A two-tower model at one scale."""

    scales: tuple[int, ...]
    dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    name: str
    revision: str
    pooling: str

    @property
    def dtype(self) -> str: ...

    def reads(self, text: str) -> bool:
        """Whether the text tower can read this language at all."""

    def embed_pixels(self, pixels_NHWC: Pixels) -> Vectors:
        """Unit embeddings (N, dim) of pictures (N, side, side, 3), RGB from 0 to 255."""

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit embeddings (N, dim) of texts."""


class Described(Protocol):
    """What sets a visual model's space apart from others, its dimensions aside."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def scales(self) -> tuple[int, ...]: ...
    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...
    @property
    def pooling(self) -> str: ...


class EncoderConfig(BaseModel):
    """Which visual encoder, and how it runs.

    `model` is a directory or a hub id; empty means the packaged `lite` heads. `dtype: auto` is
    float16 on a GPU and, on a CPU, bfloat16 where the processor multiplies it natively.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lite", "clip"] = "lite"
    model: str = ""
    revision: str | None = None
    scales: tuple[int, ...] = Field((), description="pixels; empty: the model's own default")
    pooling: Literal["projected", "mean"] = "projected"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = Field(16, ge=1, le=4096)


class Encoder:
    """Multi-scale vectors from a VisualModel. `dim` is S × the model's own dimension."""

    def __init__(self, model: VisualModel, batch_size: int = 16) -> None:
        self.model = model
        self.batch_size = batch_size
        self.scales = model.scales
        self.dim = model.dim * len(model.scales)
        self.space = _space(model, self.dim)

    @property
    def cache_key(self) -> str:
        """Identifies vectors to the last bit that matters: the space, and the dtype they came from."""
        return f"{self.space.fingerprint}/{self.model.dtype}"

    @property
    def has_text_tower(self) -> bool:
        return self.model.pooling == "projected"

    def reads(self, text: str) -> bool:
        """Whether a text query means anything in this space."""
        return self.has_text_tower and self.model.reads(text)

    def encode_images(self, pyramids: Sequence[Sequence[Pixels]]) -> Vectors:
        """Unit vectors (N, dim) of N pictures, each given as its S arrays (side, side, 3)."""
        vectors = np.empty((len(pyramids), self.dim), dtype=np.float32)
        for start in range(0, len(pyramids), self.batch_size):
            batch = pyramids[start : start + self.batch_size]
            per_scale = [self.model.embed_pixels(np.stack(pixels)) for pixels in zip(*batch, strict=True)]
            vectors[start : start + len(batch)] = np.concatenate(per_scale, axis=1)
        return vectors / np.float32(np.sqrt(len(self.scales)))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, dim) of N texts."""
        repeated = np.tile(self.model.embed_texts(texts), (1, len(self.scales)))
        return repeated / np.float32(np.sqrt(len(self.scales)))

    def encode_bytes(self, data: bytes) -> Vectors:
        """The unit vector (dim,) of one picture file. Raises BadImage."""
        vectors: Vectors = self.encode_images([images.pyramid(images.decode(data), self.scales)])[0]
        return vectors


def _space(model: Described, dim: int) -> Space:
    return Space(
        model=model.name,
        revision=model.revision,
        dim=dim,
        scales=model.scales,
        mean=model.mean,
        std=model.std,
        pooling=model.pooling,
        fusion="concatenated",
        preprocessing=images.RULES,
    )


def configured_space(config: EncoderConfig, directory: Path | None, dim: int) -> Space:
    """The space of the configured encoder, without loading its weights or torch.

    Of a CLIP, `directory` is where it lies, and `dim` what its name and revision say. Raises UsageError.
    """
    if config.kind == "lite" or directory is None:
        return load_encoder(config).space
    from pipelines.core.clip_description import describe
    from pipelines.core.local_models import read_config

    return _space(describe(config, str(read_config(directory).get("model_type"))), dim)


def load_encoder(config: EncoderConfig) -> Encoder:
    """The configured encoder. Heavy imports and weights wait until a vector needs them, where they can."""
    model: VisualModel
    if config.kind == "clip":
        from pipelines.core.clip import ClipModel

        model = ClipModel(config)
    else:
        from pipelines.core.lite import LiteEncoder

        path = Path(config.model) if config.model else None
        model = LiteEncoder.load(path, device=config.device, dtype=config.dtype, scales=config.scales or None)
    return Encoder(model, config.batch_size)
