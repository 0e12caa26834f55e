"""Which texts and pictures belong together, as vectors. Knows nothing of files, indexes or losses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.embedder import Embedder
from pipelines.core.encoder import Encoder
from pipelines.core.errors import UsageError

Array = NDArray[np.float32]
Indices = NDArray[np.int64]

_TEXTS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Pairs:
    """T texts, P pictures, and the N pairs that belong together."""

    texts: tuple[str, ...]
    visual: Array
    """(T, W): the texts in the visual space."""
    text: Array
    """(T, D): the texts in the text space."""
    pictures: Array
    """(P, W)."""
    groups: Indices
    """(P,): pictures of one number are of one origin."""
    of: Indices
    """(N, 2): places of a text and of its picture."""
    held_out: NDArray[np.bool_]
    """(N,)."""
    weights: NDArray[np.float64]
    """(N,)."""
    skipped: int = 0
    """Pictures that could not be read."""

    def only(self, wanted: NDArray[np.bool_]) -> Pairs:
        """These pairs; texts and pictures keep their places."""
        return Pairs(
            self.texts, self.visual, self.text, self.pictures, self.groups,
            self.of[wanted], self.held_out[wanted], self.weights[wanted], self.skipped,
        )  # fmt: skip


class Collector:
    """Takes pairs as they are found. Equal vectors are one picture, whose groups are then one group."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._places: dict[bytes, int] = {}
        self._vectors: list[Array] = []
        self._names: list[str] = []
        self._apart: list[bool | None] = []
        self._weights: list[float] = []
        self._of: dict[tuple[int, int], None] = {}
        self._joined: dict[str, str] = {}

    def add(
        self,
        vector: Array,
        texts: Iterable[str],
        group: str,
        held_out: bool | None = None,
        weight: float = 1.0,
    ) -> None:
        """`held_out` None: `pairs` decides. Raises UsageError for a picture that is in both splits."""
        key = vector.tobytes()
        place = self._places.setdefault(key, len(self._vectors))
        if place == len(self._vectors):
            self._vectors.append(vector)
            self._names.append(group or f"\0{place}")
            self._apart.append(held_out)
            self._weights.append(weight)
        if self._apart[place] != held_out:
            raise UsageError(f"a picture of {next(iter(texts))!r} is both in split 'train' and in 'held-out'")
        self._weights[place] = max(self._weights[place], weight)
        if group:
            self._joined[self._root(group)] = self._root(self._names[place])
        for text in texts:
            self._of[self._texts.setdefault(text, len(self._texts)), place] = None

    def pairs(self, encoder: Encoder, embedder: Embedder, skipped: int = 0, held_out: float = 0.0) -> Pairs:
        """Of groups whose split is open the share `held_out` is kept apart. Raises UsageError when there is
        too little to train on, or texts have no place beside pictures."""
        if not encoder.has_text_tower:
            raise UsageError("an aligner wants texts in the pictures' space: set encoder.pooling=projected")
        roots = [self._root(name) for name in self._names]
        numbers = {root: number for number, root in enumerate(dict.fromkeys(roots))}
        known = zip(roots, self._apart, strict=True)
        apart = np.array([_chosen(root, held_out) if said is None else said for root, said in known])
        weights = np.array(self._weights, dtype=np.float64)
        if (~apart).sum() < 2 or not weights[~apart].any():
            raise UsageError("wanted at least two pictures with texts to train on, and one of weight above 0")
        texts = tuple(self._texts)
        batches = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        of = np.array(list(self._of))
        return Pairs(
            texts=texts,
            visual=np.concatenate([encoder.encode_texts(batch) for batch in batches]),
            text=np.concatenate([embedder.embed_queries(batch) for batch in batches]),
            pictures=np.stack(self._vectors),
            groups=np.array([numbers[root] for root in roots]),
            of=of,
            held_out=apart[of[:, 1]],
            weights=weights[of[:, 1]],
            skipped=skipped,
        )

    def _root(self, name: str) -> str:
        while (up := self._joined.get(name, name)) != name:
            name = up
        return name


def _chosen(group: str, share: float) -> bool:
    """The same groups for the same share, in every process."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") < share * 2**32
