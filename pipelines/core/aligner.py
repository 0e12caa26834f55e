"""The aligner: a second look at the pictures that retrieval returned. (query, their vectors) -> relevance.

It remembers the pairs that it was trained on. A question is compared with the remembered texts, the
pictures of the nearest of them are averaged, and a candidate is judged by what it has in common with that
average and with the question itself:

    m = softmax(κ · T s) P                 s: the question in the text space; T, P: texts and their pictures
    relevance(x) = γ · (q · x) + β · (m · x) + residual    q: the question in the visual space; x: candidate

(Zhang et al., Tip-Adapter, arXiv 2111.03930, with texts for labels.) κ, γ, β and the residual, if there is
one, are trained; see `aligner_network`. Knows nothing of stores or Ray; without a residual numpy only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from pipelines.core.errors import SpaceMismatch, UsageError
from pipelines.core.lazy import Lazy
from pipelines.core.space import Space

Array = NDArray[np.float32]
Kind = Literal["memory", "mlp", "qformer"]

TINY_ALIGNER = "tiny-aligner"
PACKAGED = Path(__file__).parents[1] / "models" / "tiny_aligner"
DESCRIPTION_FILE, WEIGHTS_FILE = "aligner.json", "aligner.safetensors"


class AlignerConfig(BaseModel):
    """Which aligner reorders pictures that a text found, if any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trained", "blip2"] = Field(
        "trained", description="trained: by `train aligner`; blip2: a BLIP-2 that reads each picture anew"
    )
    model: str = Field(
        "", description=f"trained: its directory, or {TINY_ALIGNER}; blip2: directory or hub id; empty: none"
    )
    revision: str | None = Field(None, description="of a hub id")
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    candidates: int = Field(
        20, ge=1, le=1000, description="pictures of each visual branch that are reordered"
    )


class AlignerDescription(BaseModel):
    """`aligner.json`: the shapes, and the spaces that the vectors must be of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    kind: Kind
    scales: int = Field(ge=1, le=16)
    dim: int = Field(ge=1, le=8192, description="of one scale")
    text_dim: int = Field(ge=1, le=8192)
    hidden: int = Field(128, ge=8, le=2048)
    layers: int = Field(2, ge=1, le=12)
    heads: int = Field(4, ge=1, le=32)
    queries: int = Field(4, ge=1, le=64)
    space: str = Field(description="fingerprint of the visual space")
    text_space: str = Field(description="fingerprint of the text space")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_heads(self.hidden, self.heads)
        return self


def check_heads(hidden: int, heads: int) -> None:
    """Raise ValueError unless a Q-Former of this width can have so many attention heads."""
    if hidden % heads:
        raise ValueError(f"hidden ({hidden}) must be a multiple of heads ({heads})")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and its unit vectors: (scales · dim,) in the visual and (text_dim,) in the text space."""

    words: str
    visual: Array
    text: Array


@dataclass(frozen=True, slots=True)
class Candidates:
    """N pictures: their vectors (N, scales · dim), and the content hashes that their previews go by."""

    vectors: Array
    contents: tuple[str, ...] = ()


class Aligner(Protocol):
    def relevance(self, asked: Sequence[Asked], candidates: Sequence[Candidates]) -> list[Array]:
        """For each question the relevance (N,) of its candidates; higher is better. Comparable within a
        question only. Raises UsageError for vectors of another shape."""


class MemoryAligner:
    """An Aligner read from a directory."""

    def __init__(self, description: AlignerDescription, tensors: dict[str, Array]) -> None:
        self.description, self.tensors = description, tensors
        self._texts, self._pictures = tensors["memory.texts"], tensors["memory.pictures"]
        self._check_memory(tensors["memory.counts"])
        self._log_counts = np.log(tensors["memory.counts"])
        self._sharpness, self._on_question, self._on_memory = tensors["weights"]
        self._residual = Lazy[Any](self._load_residual)

    @classmethod
    def load(cls, directory: Path) -> MemoryAligner:
        """Raises UsageError for a directory without an aligner."""
        try:
            described = json.loads((directory / DESCRIPTION_FILE).read_text("utf-8"))
            description = AlignerDescription.model_validate(described)
            stored = load_tensors((directory / WEIGHTS_FILE).read_bytes())
            aligner = cls(description, {name: array.astype(np.float32) for name, array in stored.items()})
            if description.kind != "memory":
                aligner._residual()  # what is wrong with a network is told now, too
            return aligner
        except (OSError, KeyError, ValueError, RuntimeError, ValidationError, SafetensorError) as exc:
            raise UsageError(
                f"{directory} holds no aligner ({DESCRIPTION_FILE}, {WEIGHTS_FILE}): {exc}"
            ) from exc

    def _check_memory(self, counts: Array) -> None:
        """Raise ValueError for tensors that do not fit together or hold no numbers."""
        rows, shape = len(counts), self.description
        wanted = (rows, shape.text_dim), (rows, shape.scales * shape.dim), (rows,)
        found = self._texts.shape, self._pictures.shape, counts.shape
        if not rows or found != wanted:
            raise ValueError(f"its memory has the shapes {found}")
        if not all(np.isfinite(tensor).all() for tensor in self.tensors.values()) or counts.min() <= 0:
            raise ValueError("it holds numbers that are none")

    def check_spaces(self, space: Space, text_space: Space) -> None:
        """Raise SpaceMismatch unless the vectors of these spaces are those that it was trained on."""
        for name, trained, used in (
            ("visual", self.description.space, space),
            ("text", self.description.text_space, text_space),
        ):
            if trained != used.fingerprint:
                raise SpaceMismatch(
                    f"the aligner was trained on another {name} space ({trained}) than that of "
                    f"{used.model} ({used.fingerprint}): train one with "
                    "mmrag train aligner --data index:DIR, or set none"
                )

    def relevance(self, asked: Sequence[Asked], candidates: Sequence[Candidates]) -> list[Array]:
        if not asked:
            return []
        visual, text = np.stack([one.visual for one in asked]), np.stack([one.text for one in asked])
        shown = [one.vectors for one in candidates]
        self._check(visual, text, shown)
        remembered = self._remembered(text)
        weighed = self._on_question * visual + self._on_memory * remembered
        scores = [cast(Array, vectors @ row) for vectors, row in zip(shown, weighed, strict=True)]
        if self.description.kind == "memory":
            return scores
        more = self._residual()(visual, text, remembered, shown)
        return [score + added for score, added in zip(scores, more, strict=True)]

    def _remembered(self, text: Array) -> Array:
        """The average pictures (Q, scales · dim) of the texts near the questions (Q, text_dim)."""
        logits = self._sharpness * (text @ self._texts.T) + self._log_counts
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        pictures: Array = (weights / weights.sum(axis=1, keepdims=True)) @ self._pictures
        return pictures

    def _check(self, visual: Array, text: Array, candidates: Sequence[Array]) -> None:
        wanted = (self.description.scales * self.description.dim, self.description.text_dim)
        shapes = {(visual.shape[1], text.shape[1])} | {(one.shape[1], wanted[1]) for one in candidates}
        if shapes != {wanted} and candidates:
            raise UsageError(f"the aligner reads vectors of {wanted} numbers, not {sorted(shapes)}")

    def _load_residual(self) -> Any:
        from pipelines.core.aligner_network import load_residual

        return load_residual(self.description, self.tensors)


def top(relevance: Array, k: int) -> NDArray[np.int64]:
    """The places of the k most relevant candidates, best first; of equals the earlier one comes first."""
    order: NDArray[np.int64] = np.argsort(-relevance, kind="stable")[:k]
    return order


def load_aligner(
    config: AlignerConfig, space: Space, text_space: Space, previews: Path | None = None
) -> Aligner | None:
    """The configured aligner, or None. `previews` are the index's, for one that reads pictures. Raises
    UsageError, and SpaceMismatch where it is of other spaces."""
    if not config.model:
        return None
    if config.kind == "blip2":
        from pipelines.core.aligner_blip2 import Blip2Aligner

        return Blip2Aligner(config, previews or Path())
    aligner = MemoryAligner.load(PACKAGED if config.model == TINY_ALIGNER else Path(config.model))
    aligner.check_spaces(space, text_space)
    return aligner
