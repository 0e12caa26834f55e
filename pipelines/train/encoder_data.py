"""Training rows of the `lite` encoder, and the cached trunk features of their pictures.

A row of the JSONL file is one picture of one concept:

    {"image": "img/apple.png", "concept": "1F34E", "texts": ["red apple", "红苹果"], "split": "train"}

`image` is relative to the file and stays in its folder. `texts` name the concept in any language that the
text tower reads. `split` is "train" or "held-out", one for all rows of a concept. Optional: `tags`, looser
words for it, and `weight` (default 1), how often the concept is drawn. Knows nothing of heads, losses or Ray.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from pipelines.core import images
from pipelines.core.errors import BadImage, UsageError
from pipelines.core.files import replaced
from pipelines.core.picture_files import read_picture
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.picture_rows import PictureRow, picture_rows

Features = NDArray[np.float16]

# Raise it when `alter` or the trunk changes: cached features are then made anew.
_FEATURES_VERSION = 2


class Row(PictureRow):
    """One line of the file."""

    concept: str = Field(min_length=1)
    tags: tuple[str, ...] = ()
    split: Literal["train", "held-out"]
    weight: float = Field(1.0, gt=0)

    @property
    def words(self) -> tuple[str, ...]:
        return self.texts + self.tags


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with their pictures' features: (rows, views, scales, F). `skipped` counts unusable pictures."""

    rows: tuple[Row, ...]
    features: Features
    skipped: int

    def only(self, split: str) -> Table:
        keep = [number for number, row in enumerate(self.rows) if row.split == split]
        return Table(tuple(self.rows[number] for number in keep), self.features[keep], self.skipped)


def read_rows(file: Path) -> tuple[Row, ...]:
    """Raises UsageError, which names the line, for a row that is wrong or a picture that is not there."""
    rows: list[Row] = []
    splits: dict[str, str] = {}
    for where, row in picture_rows(file, Row):
        if splits.setdefault(row.concept, row.split) != row.split:
            raise UsageError(f"{where}: concept {row.concept!r} is in both splits")
        rows.append(row)
    if len({row.concept for row in rows if row.split == "train"}) < 2:
        raise UsageError(f"{file}: wanted at least two concepts in split 'train'")
    return tuple(rows)


def alter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A picture of the same thing: mirrored, turned, moved in a wider frame, tinted, grayed or dimmed."""
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    white = (255, 255, 255)
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC, fillcolor=white)
    margin = rng.uniform(0, 0.45)
    width, height = (round(side * (1 + margin * rng.uniform(0.6, 1.0))) for side in image.size)
    frame = Image.new("RGB", (width, height), white)
    corner = (int(rng.integers(width - image.width + 1)), int(rng.integers(height - image.height + 1)))
    frame.paste(image, corner)
    if rng.random() < 0.25:
        frame = ImageOps.grayscale(frame).convert("RGB")
    if rng.random() < 0.4:
        frame = ImageEnhance.Brightness(frame).enhance(rng.uniform(0.7, 1.2))
        frame = ImageEnhance.Color(frame).enhance(rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:  # a coloured ground: white becomes the tint, black stays
        tint = rng.uniform(0.35, 1.0, size=3)
        frame = Image.fromarray((np.asarray(frame) * tint).astype(np.uint8))
    return frame


def pyramids(data: bytes, config: EncoderTraining) -> list[tuple[NDArray[np.uint8], ...]]:
    """The picture's views, each at every scale. The views depend on the bytes and the seed only."""
    picture = images.decode(data)
    seed = int.from_bytes(hashlib.sha256(data).digest()[:8], "big") ^ config.seed
    rng = np.random.default_rng(seed)
    altered = [alter(picture.image, rng) for _ in range(config.views - 1)]
    pictures = [picture, *(images.Picture(image, image.width, image.height) for image in altered)]
    return [images.pyramid(one, config.scales) for one in pictures]


def extract(
    rows: Sequence[Row],
    folder: Path,
    config: EncoderTraining,
    pooled: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    cache: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Table:
    """Features of the rows' pictures, from `cache` (a directory) where they are there.

    `on_progress(done, total)` counts the pictures that were not.

    A picture that cannot be decoded is left out and counted. Pictures are known by their content, and in
    memory a batch at a time. Raises UsageError where none can be read, or one changes meanwhile.
    """
    files = [folder / row.image for row in rows]
    digests = [_digest(file) for file in files]
    made_by = (config.scales, config.views, config.seed, config.extraction_dtype, _FEATURES_VERSION)
    cached = cache / f"features-{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]}.npz"
    known = _read_cache(cached)
    missing = {digest: file for digest, file in zip(digests, files, strict=True) if digest not in known}
    if missing:
        known |= _pool(missing, config, pooled, on_progress)
        _write_cache(cached, known)
    usable = [number for number, digest in enumerate(digests) if digest in known]
    if not usable:
        raise UsageError("none of the pictures can be read")
    kept = np.stack([known[digests[number]] for number in usable])
    return Table(tuple(rows[number] for number in usable), kept, len(rows) - len(usable))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(file: Path, digest: str) -> bytes:
    """Raises BadPart, and UsageError where it is no more what was hashed."""
    data = read_picture(file.resolve())
    if hashlib.sha256(data).hexdigest() != digest:
        raise UsageError(f"{file} changed while it was read; run the same command again")
    return data


def _read_cache(file: Path) -> dict[str, Features]:
    if not file.exists():
        return {}
    with np.load(file) as stored:
        return dict(zip(stored["digests"].tolist(), stored["features"], strict=True))


def _write_cache(file: Path, known: dict[str, Features]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replaced(file) as beside, beside.open("wb") as out:  # savez itself would add ".npz" to the name
        np.savez(out, digests=np.array(list(known)), features=np.stack(list(known.values())))


def _pool(
    files: dict[str, Path],
    config: EncoderTraining,
    pooled: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    on_progress: Callable[[int, int], None],
) -> dict[str, Features]:
    known: dict[str, Features] = {}
    waiting: list[str] = []
    batch: list[list[tuple[NDArray[np.uint8], ...]]] = []

    def flush() -> None:
        if not batch:
            return
        per_scale = []
        for scale in range(len(config.scales)):
            pixels = np.stack([view[scale] for views in batch for view in views])
            per_scale.append(pooled(pixels).reshape(len(batch), config.views, -1))
        stacked = np.stack(per_scale, axis=2).astype(np.float16)
        known.update(zip(waiting, stacked, strict=True))
        waiting.clear()
        batch.clear()

    per_batch = max(1, config.extraction_batch // config.views)
    for number, (digest, file) in enumerate(files.items(), start=1):
        try:
            batch.append(pyramids(_read(file, digest), config))
            waiting.append(digest)
        except BadImage as exc:
            print(f"left out a picture: {exc}", file=sys.stderr)
        if len(batch) == per_batch or number == len(files):
            flush()
            on_progress(number, len(files))
    return known
