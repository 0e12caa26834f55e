"""The training file of `tiny-aligner`: emoji pictures and their names in English and Chinese.

`build(DIR)` fetches the pictures and writes

    DIR/pairs.jsonl              rows for `mmrag train aligner`
    DIR/pictures/fluent-3d/      Microsoft's Fluent emoji, which the `lite` encoder never saw
    DIR/pictures/emojione/       JoyPixels' of 2019, to measure on

beside what emoji.py fetches. Training asks for the Fluent pictures, as a user's own pictures are new to the
encoder; Google's and Twitter's, which the encoder was trained on, are only remembered. Apple's and Facebook's
and EmojiOne's are never trained on, nor are the concepts of fold 0: benchmarks/aligner.py judges on them.
Needs npm.

| source | licence |
|---|---|
| @lobehub/fluent-emoji-3d (Fluent Emoji, Microsoft) | MIT |
| emojione-assets 4.5.0 (JoyPixels) | not free: measured on, never trained on |
| the others | see emoji.py |
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image

from . import emoji
from .judged import write_rows
from .packages import Package, fetch, members

VENDOR = "fluent-3d"
MEASURED_VENDORS = (*emoji.MEASURED_VENDORS, "emojione")
# Package, and where its pictures lie.
_FETCHED = {
    "fluent-3d": (
        Package(
            "npm",
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        ),
        "package/assets",
    ),
    "emojione": (
        Package(
            "npm",
            "emojione-assets",
            "4.5.0",
            "f55c1e3f230f1d552f17d18c936181234c9b155e304002d865124e6b0048acb5",
        ),
        "package/png/64",
    ),
}
HELD_OUT_FOLD = 0


def fetch_pictures(out: Path, concepts: list[emoji.Concept], vendor: str) -> None:
    """The concepts' pictures, at most 160 pixels a side, as PNG files named as the other vendors'."""
    folder = out / "pictures" / vendor
    if folder.exists():
        return
    package, place = _FETCHED[vendor]
    named = {_code(concept.picture): concept.picture for concept in concepts}

    def wanted(name: str) -> bool:
        path = Path(name)
        return path.parent.as_posix() == place and _code(path.name) in named

    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name, data in members(fetch(package, out / "downloads"), wanted):
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
        picture.thumbnail((160, 160))
        picture.save(partial / named[_code(Path(name).name)])
    partial.replace(folder)


def rows(out: Path, concepts: list[emoji.Concept], fold: int) -> list[dict[str, Any]]:
    """Of every concept that is not in the fold, one row a vendor."""
    found = []
    for vendor in (VENDOR, *emoji.TRAINED_VENDORS):
        for concept in concepts:
            image = f"pictures/{vendor}/{concept.picture}"
            if concept.fold != fold and (out / image).exists():
                texts = list(dict.fromkeys(concept.names.values()))
                weight = 1.0 if vendor == VENDOR else 0.0
                found.append({"image": image, "texts": texts, "group": vendor, "weight": weight})
    return found


def build(out: Path) -> list[emoji.Concept]:
    """Fetch what is missing, write the rows, and return the concepts."""
    emoji.fetch_emoji(out)
    concepts = emoji.read_concepts(out)
    for vendor in _FETCHED:
        fetch_pictures(out, concepts, vendor)
    write_rows(out / "pairs.jsonl", rows(out, concepts, HELD_OUT_FOLD))
    return concepts


def _code(name: str) -> str:
    return Path(name).stem.lower().replace("-fe0f", "")
