"""Pictures and text -> unit vectors of one joint space, at several scales.

Holds the multi-scale rule; the models behind it see one scale at a time. Knows nothing of stores.

The vector of a picture is its unit embedding at each of the S scales, concatenated and divided by
√S; the vector of a text is its unit embedding repeated S times and divided by √S. Both have unit
length, and their dot product is the mean of the per-scale cosines.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.core import images
from pipelines.core.errors import OutOfMemory
from pipelines.core.space import Space
from pipelines.core.views import views

_LOG = logging.getLogger(__name__)

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

    @property
    def device(self) -> str:
        """As torch names it: `cpu`, `cuda:1`."""

    def reads(self, text: str) -> bool:
        """Whether the text tower can read this language at all."""

    def embed_pixels(self, pixels_NHWC: Pixels) -> Vectors:
        """Unit embeddings (N, dim) of pictures (N, side, side, 3), RGB from 0 to 255. Raises OutOfMemory."""

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
    pooling: Literal["projected", "mean"] = Field(
        "projected",
        description="mean: the vision tower's last states, averaged and not projected: no text reaches them, "
        "so for pictures that are found by pictures alone",
    )
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_size: int = Field(
        16,
        ge=1,
        le=4096,
        description="pictures at once: on a GPU at the largest scale, and at a smaller one as many more as "
        "have the same pixels; halved where they do not fit into its memory",
    )
    compile: bool = Field(
        False,
        description="torch.compile of a CLIP's vision tower, for large ingests: each scale takes minutes "
        "before its first vector",
    )

    @model_validator(mode="after")
    def _compile_is_for_clip(self) -> EncoderConfig:
        if self.compile and self.kind != "clip":
            raise ValueError("compile goes with kind 'clip' only")
        return self


class Encoder:
    """Multi-scale vectors from a VisualModel. `dim` is S × the model's own dimension."""

    def __init__(self, model: VisualModel, batch_size: int = 16) -> None:
        self.model = model
        self.batch_size = batch_size
        self.scales = model.scales
        self.dim = model.dim * len(model.scales)
        self.space = _space(model, self.dim)
        self._fitting: dict[int, int] = {}

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
        """Unit vectors (N, dim) of N pictures, each given as its S arrays (side, side, 3).

        Batches that the device's memory does not hold are made smaller, here and from then on. Raises
        OutOfMemory where one picture is too many.
        """
        vectors = np.empty((len(pyramids), self.dim), dtype=np.float32)
        if not len(pyramids):
            return vectors
        blocks = np.split(vectors, len(self.scales), axis=1)
        for side, block, pixels in zip(self.scales, blocks, zip(*pyramids, strict=True), strict=True):
            done = 0
            while done < len(pixels):
                embedded = self._embed_first(side, pixels[done:])
                block[done : done + len(embedded)] = embedded
                done += len(embedded)
        return vectors / np.float32(np.sqrt(len(self.scales)))

    def batch_at(self, side: int) -> int:
        """How many pictures of one scale the model is given at once."""
        if side in self._fitting:
            return self._fitting[side]
        # What fills a GPU and its memory is pixels. A CPU is filled by few, and all its figures are of equal
        # batches.
        largest = max(self.scales) if self.model.device.startswith("cuda") else side
        return self.batch_size * largest**2 // side**2

    def _embed_first(self, side: int, pixels: Sequence[Pixels]) -> Vectors:
        """Unit embeddings (n, dim) at one scale of the first n pictures, as many as are taken at once."""
        while True:
            batch = pixels[: self.batch_at(side)]
            try:
                return self.model.embed_pixels(np.stack(batch))
            except OutOfMemory as exc:
                if len(batch) == 1:
                    raise OutOfMemory(
                        f"{self.model.device} has no memory for one picture of {side} x {side} pixels: leave "
                        f"{side} out of encoder.scales, set encoder.dtype=float16, or end what else uses it"
                    ) from exc
            # Out here the error is gone, and with its traceback all that the failed batch had allocated.
            self._fitting[side] = len(batch) // 2
            shown = self.model.device, len(batch), side, side, self._fitting[side]
            _LOG.warning("%s has no memory for %d pictures of %d x %d pixels: from now on %d at once", *shown)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors (N, dim) of N texts."""
        repeated = np.tile(self.model.embed_texts(texts), (1, len(self.scales)))
        return repeated / np.float32(np.sqrt(len(self.scales)))

    def encode_asked(self, data: bytes) -> Vectors:
        """Unit vectors (V, dim) of a question's picture file, one a view, the whole picture first. Raises
        BadImage."""
        return self.encode_images(self.asked_pyramids(data))

    def asked_pyramids(self, data: bytes) -> list[Sequence[Pixels]]:
        """What `encode_images` takes of each view of a question's picture file. Raises BadImage."""
        return [images.pyramid(view, self.scales) for view in views(images.decode(data))]


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
        model = LiteEncoder.load(path, config.device, config.dtype, config.scales or None, config.pooling)
    return Encoder(model, config.batch_size)
