"""What an aligner is trained on: texts, pictures, and which belong together, as vectors.

A row of the JSONL file is one picture and the texts that fit it:

    {"image": "img/kd47.png", "texts": ["chip cooler KD-47", "芯片散热器 KD-47"], "group": "catalogue 7"}

`image` is relative to the file and stays in its folder. Optional: `group`, what pictures of one origin share
(an artist, a document): they never stand in memory for one another while it is trained; `split`, "train" or
"held-out"; `weight` (default 1), how often the picture is asked for; 0: it is only remembered, neither right
nor wrong.

The pairs of an index are its chunks and the pictures that these are linked to, of all tenants together: who
must not influence what another finds needs an aligner of their own. Knows nothing of losses.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipelines.core import images
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import Embedder
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadImage
from pipelines.core.index import Index
from pipelines.train.aligner_pairs import Array, Collector, Pairs
from pipelines.train.picture_rows import PictureRow, picture_rows

Progress = Callable[[int, int], None]

MAX_PICTURE_BYTES = 64 * 2**20
_TEXTS_AT_ONCE = 512
_PICTURES_AT_ONCE = 16


class Row(PictureRow):
    """One line of the file."""

    group: str = ""
    split: Literal["train", "held-out"] = "train"
    weight: float = Field(1.0, ge=0, le=1e6, allow_inf_nan=False)


def read_rows(file: Path) -> tuple[Row, ...]:
    """Raises UsageError, which names the line, for a row that is wrong or a picture that is not there."""
    return tuple(row for _, row in picture_rows(file, Row, MAX_PICTURE_BYTES))


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
    made = Collector()
    for row, vector in zip(rows, vectors, strict=True):
        if vector is not None:
            made.add(vector, row.texts, row.group, row.split == "held-out", row.weight)
    return made.pairs(encoder, embedder, sum(vector is None for vector in vectors))


def pairs_of_index(index: Index, held_out: float) -> Pairs:
    """Chunks and the pictures that they are linked to, of every tenant. A document is a group, documents that
    share a picture are one; the share `held_out` of them is kept apart."""
    texts: dict[str, set[str]] = {}
    documents: dict[str, str] = {}
    for parts, _ in index.text().scan():
        for part in parts:
            for key in part.image_keys if part.text.strip() else ():
                texts.setdefault(key, set()).add(part.text)
                documents[key] = part.document_key
    pictures: dict[str, Array] = {}
    for parts, vectors in index.visual().scan():
        linked = zip(parts, vectors, strict=True)
        pictures |= {part.key: vector.copy() for part, vector in linked if part.key in texts}
    made = Collector()
    for key in sorted(pictures):  # a scan has no order, and workers must number alike
        made.add(pictures[key], sorted(texts[key]), documents[key])
    return made.pairs(index.encoder(), index.embedder(), held_out=held_out)


def _picture_vectors(
    files: Sequence[Path], encoder: Encoder, cache: VectorCache, on_progress: Progress
) -> list[Array | None]:
    """A vector for each file, from the cache where it is there; None where it is no picture."""
    found: list[Array | None] = []
    for start in range(0, len(files), _PICTURES_AT_ONCE):
        places = files[start : start + _PICTURES_AT_ONCE]
        batch = [file.read_bytes() for file in places]
        contents = [hashlib.sha256(data).hexdigest() for data in batch]
        known = dict(cache.get(contents))
        pyramids = {}
        for content, data, file in zip(contents, batch, places, strict=True):
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
