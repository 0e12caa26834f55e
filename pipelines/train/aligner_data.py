"""What an aligner is trained on: texts, pictures, and which belong together, as vectors.

A row of the JSONL file is one picture and the texts that fit it:

    {"image": "img/kd47.png", "texts": ["chip cooler KD-47", "芯片散热器 KD-47"], "group": "catalogue 7"}

`image` is relative to the file and stays in its folder. Optional: `group`, what pictures of one origin share
(an artist, a document): they never stand in memory for one another while it is trained; `split`, "train" or
"held-out"; `weight` (default 1), how often the picture is asked for; 0: it is only remembered, neither right
nor wrong.

The pairs of an index are its chunks and the pictures that these are linked to. Knows nothing of losses.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.core import images
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import Embedder
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadImage, UsageError
from pipelines.core.index import Index

Array = NDArray[np.float32]
Indices = NDArray[np.int64]
Progress = Callable[[int, int], None]

MAX_PICTURE_BYTES = 64 * 2**20
_TEXTS_AT_ONCE = 512
_PICTURES_AT_ONCE = 16


class Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(min_length=1)
    texts: tuple[str, ...] = Field(min_length=1)
    group: str = ""
    split: Literal["train", "held-out"] = "train"
    weight: float = Field(1.0, ge=0)


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


def read_rows(file: Path) -> tuple[Row, ...]:
    """Raises UsageError, which names the line, for a row that is wrong or a picture that is not there."""
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    folder = file.parent.resolve()
    rows: list[Row] = []
    with file.open(encoding="utf-8", errors="strict") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    rows.append(_row(line, f"{file.name}:{number}", folder))
        except UnicodeDecodeError as exc:
            raise UsageError(f"{file} is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    return tuple(rows)


def _row(line: str, where: str, folder: Path) -> Row:
    try:
        row = Row.model_validate_json(line)
    except ValidationError as exc:
        problem = exc.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{where}: {field + ': ' if field else ''}{problem['msg']}") from exc
    path = (folder / row.image).resolve()
    if not path.is_relative_to(folder):
        raise UsageError(f"{where}: image {row.image!r} is outside the file's folder")
    if not path.is_file():
        raise UsageError(f"{where}: image {row.image!r} does not exist")
    if path.stat().st_size > MAX_PICTURE_BYTES:
        raise UsageError(f"{where}: image {row.image!r} is larger than {MAX_PICTURE_BYTES >> 20} MiB")
    if any(not text.strip() for text in row.texts):
        raise UsageError(f"{where}: an empty text")
    return row


def pairs_of_file(
    rows: Sequence[Row],
    folder: Path,
    encoder: Encoder,
    embedder: Embedder,
    cache: VectorCache,
    on_progress: Progress = lambda done, total: None,
) -> Pairs:
    """The rows as vectors; a picture that cannot be decoded is left out and counted."""
    vectors = _picture_vectors([folder / row.image for row in rows], encoder, cache, on_progress)
    made = _Collected()
    for row, vector in zip(rows, vectors, strict=True):
        if vector is not None:
            made.add(vector, row.texts, row.group, row.split == "held-out", row.weight)
    return made.pairs(encoder, embedder, sum(vector is None for vector in vectors))


def pairs_of_index(index: Index, held_out: float) -> Pairs:
    """Chunks and the pictures that they are linked to; `held_out` is the share of documents kept apart."""
    pictures = {
        part.key: vector
        for parts, vectors in index.visual().scan()
        for part, vector in zip(parts, vectors, strict=True)
    }
    texts: dict[str, dict[str, None]] = {}
    documents: dict[str, str] = {}
    for parts, _ in index.text().scan():
        for part in parts:
            for key in part.image_keys:
                if key in pictures and part.text.strip():
                    texts.setdefault(key, {})[part.text] = None
                    documents[key] = part.document_key
    made = _Collected()
    for key in sorted(texts):
        document = documents[key]
        digest = hashlib.sha256(document.encode()).digest()
        apart = int.from_bytes(digest[:4], "big") < held_out * 2**32
        made.add(pictures[key], tuple(texts[key]), document, apart, 1.0)
    return made.pairs(index.encoder(), index.embedder(), 0)


class _Collected:
    """Pairs as they are found."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}
        self._groups: dict[str, int] = {}
        self._vectors: list[Array] = []
        self._of_picture: list[int] = []
        self._of: list[tuple[int, int]] = []
        self._rest: list[tuple[bool, float]] = []

    def add(self, vector: Array, texts: Iterable[str], group: str, held_out: bool, weight: float) -> None:
        picture = len(self._vectors)
        self._vectors.append(vector)
        self._of_picture.append(self._groups.setdefault(group or f"\0{picture}", len(self._groups)))
        for text in dict.fromkeys(texts):
            self._of.append((self._texts.setdefault(text, len(self._texts)), picture))
            self._rest.append((held_out, weight))

    def pairs(self, encoder: Encoder, embedder: Embedder, skipped: int) -> Pairs:
        """Raises UsageError when there is too little to train on, or texts have no place beside pictures."""
        if not encoder.has_text_tower:
            raise UsageError("an aligner wants texts in the pictures' space: set encoder.pooling=projected")
        texts = tuple(self._texts)
        held_out = np.array([apart for apart, _ in self._rest], dtype=bool)
        weights = np.array([weight for _, weight in self._rest], dtype=np.float64)
        trained = {picture for (_, picture), apart in zip(self._of, held_out, strict=True) if not apart}
        if len(trained) < 2 or not weights[~held_out].any():
            raise UsageError("wanted at least two pictures with texts to train on, and one of weight above 0")
        batches = [texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE)]
        return Pairs(
            texts=texts,
            visual=np.concatenate([encoder.encode_texts(batch) for batch in batches]),
            text=np.concatenate([embedder.embed_queries(batch) for batch in batches]),
            pictures=np.stack(self._vectors),
            groups=np.array(self._of_picture),
            of=np.array(self._of),
            held_out=held_out,
            weights=weights,
            skipped=skipped,
        )


def _picture_vectors(
    files: Sequence[Path], encoder: Encoder, cache: VectorCache, on_progress: Progress
) -> list[Array | None]:
    """A vector for each file, from the cache where it is there; None where it is no picture."""
    found: list[Array | None] = []
    for start in range(0, len(files), _PICTURES_AT_ONCE):
        batch = [file.read_bytes() for file in files[start : start + _PICTURES_AT_ONCE]]
        contents = [hashlib.sha256(data).hexdigest() for data in batch]
        known = dict(cache.get(contents))
        pyramids = {}
        for content, data, file in zip(contents, batch, files[start:], strict=False):
            if content not in known and content not in pyramids:
                try:
                    pyramids[content] = images.pyramid(images.decode(data), encoder.scales)
                except BadImage as exc:
                    print(f"left out {file.name}: {exc}", file=sys.stderr)
        if pyramids:
            new = dict(zip(pyramids, encoder.encode_images(list(pyramids.values())), strict=True))
            cache.put(new)
            known |= new
        found += [known.get(content) for content in contents]
        on_progress(len(found), len(files))
    return found
