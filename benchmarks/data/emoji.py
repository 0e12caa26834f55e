"""Fetch emoji artwork, its names and Openclipart, and write the training file of the `lite` encoder.

    python -m benchmarks.data.emoji --out DIR [--held-out-fold 0]

DIR/train.jsonl        rows for `mmrag train encoder`: google, twitter and Openclipart pictures
DIR/concepts.json      the 1,852 concepts with names, tags and fold, for benchmarks/joint_encoder.py
DIR/pictures/VENDOR/   google, twitter (trained on); apple, facebook (only ever measured on)

Needs npm, and apt-get and dpkg for Openclipart. Nothing fetched is part of this repository.

| source | licence |
|---|---|
| emoji-datasource-google (Noto Emoji) | Apache-2.0 |
| emoji-datasource-twitter (Twemoji) | CC-BY-4.0 |
| emoji-datasource-apple, -facebook | not free: measured on, never trained on |
| emojibase-data (names and tags, from Unicode CLDR) | MIT; CLDR: Unicode licence |
| Openclipart 0.18 (Debian openclipart-png, -svg) | public domain; rows that say otherwise are left out |

The split is fixed before any training: concepts sorted by the SHA-256 of their hexcode; a concept's fold
is its rank modulo 5. An Openclipart picture whose texts hold every word of a held-out concept's English
name is left out as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .judged import write_rows
from .openclipart import Clipart, fetch_clipart, read_clipart, words_of
from .packages import Package, fetch, members

TRAINED_VENDORS = ("google", "twitter")
MEASURED_VENDORS = ("apple", "facebook")
PACKAGES = (
    Package(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    Package(
        "npm",
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    Package(
        "npm",
        "emoji-datasource-apple",
        "16.0.0",
        "b34d1665e136f163b0d4433318df151895b785186e8c729b2211b43017945075",
    ),
    Package(
        "npm",
        "emoji-datasource-facebook",
        "16.0.0",
        "017038cf5a4e7fcf03dd9133cbed43d4c281c4b3ce7b927c7160261b92b8821e",
    ),
    Package(
        "npm", "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"
    ),
)
LANGUAGES = ("en", "zh", "zh-hant")
FOLDS = 5
# Drawn less often than emoji: their names are noisy, and there are more of them.
CLIPART_WEIGHT = 0.25


@dataclass(frozen=True, slots=True)
class Concept:
    id: str
    picture: str
    names: dict[str, str]
    tags: tuple[str, ...]
    fold: int


def fetch_emoji(out: Path) -> None:
    """The four vendors' 64-pixel pictures, emoji.json and emojibase's names, from the npm registry."""
    for package in PACKAGES:
        archive = fetch(package, out / "downloads")
        for name, data in members(archive, lambda name, package=package: bool(_target(name, package.name))):
            target = out / _target(name, package.name)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)


def _target(member: str, package: str) -> str | None:
    if found := re.fullmatch(r"package/img/(\w+)/64/([\w-]+\.png)", member):
        return f"pictures/{found[1]}/{found[2]}"
    if member == "package/emoji.json" and "google" in package:
        return "downloads/emoji.json"
    if found := re.fullmatch(r"package/(en|zh|zh-hant)/data\.json", member):
        return f"downloads/names-{found[1]}.json"
    return None


def read_concepts(out: Path) -> list[Concept]:
    """Every emoji that all four vendors drew and emojibase names, but the five skin-tone swatches."""
    names: dict[str, dict[str, Any]] = {
        language: {entry["hexcode"]: entry for entry in _json(out / f"downloads/names-{language}.json")}
        for language in LANGUAGES
    }
    found = []
    for emoji in _json(out / "downloads/emoji.json"):
        code = emoji["unified"]
        vendors = TRAINED_VENDORS + MEASURED_VENDORS
        drawn = all((out / "pictures" / vendor / emoji["image"]).exists() for vendor in vendors)
        if emoji["category"] == "Component" or not drawn:
            continue
        spellings = (code, code.replace("-FE0F", ""), f"{code}-FE0F")
        entries = {
            language: next((known[s] for s in spellings if s in known), None)
            for language, known in names.items()
        }
        labels = {language: entry["label"] for language, entry in entries.items() if entry}
        if {"en", "zh"} <= labels.keys():
            tags = [tag for entry in entries.values() if entry for tag in entry.get("tags", [])]
            found.append((code, emoji["image"], labels, tuple(dict.fromkeys(tags))))
    found.sort(key=lambda concept: hashlib.sha256(concept[0].encode()).hexdigest())
    return [Concept(*fields, fold=rank % FOLDS) for rank, fields in enumerate(found)]


def training_rows(
    concepts: list[Concept], clipart: list[Clipart], held_out_fold: int
) -> list[dict[str, Any]]:
    """Rows of train.jsonl. Held-out concepts keep their rows, marked: training measures itself on them."""
    rows: list[dict[str, Any]] = [
        {
            "image": f"pictures/{vendor}/{concept.picture}",
            "concept": concept.id,
            "texts": list(dict.fromkeys(concept.names.values())),
            "tags": list(concept.tags),
            "split": "held-out" if concept.fold == held_out_fold else "train",
        }
        for vendor in TRAINED_VENDORS
        for concept in concepts
    ]
    held_out = [words_of(concept.names["en"]) for concept in concepts if concept.fold == held_out_fold]
    for picture in clipart:
        if not any(words and words <= picture.words for words in held_out):
            texts, tags = [picture.label], list(picture.keywords)
            row = {
                "image": picture.picture,
                "concept": f"clipart:{picture.label}",
                "texts": texts,
                "tags": tags,
            }
            rows.append(row | {"split": "train", "weight": CLIPART_WEIGHT})
    return rows


def build(out: Path) -> tuple[list[Concept], list[Clipart]]:
    """Fetch what is missing and return the concepts and Openclipart pictures under `out`."""
    fetch_emoji(out)
    fetch_clipart(out)
    return read_concepts(out), read_clipart(out)


def _json(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--held-out-fold", type=int, default=0, choices=range(FOLDS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    concepts, clipart = build(args.out)
    rows = training_rows(concepts, clipart, args.held_out_fold)
    write_rows(args.out / "train.jsonl", rows)
    described = [asdict(concept) for concept in concepts]
    (args.out / "concepts.json").write_text(json.dumps(described, ensure_ascii=False, indent=1), "utf-8")
    print(
        f"{len(concepts):,} concepts, {len(clipart):,} Openclipart pictures, {len(rows):,} rows",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
