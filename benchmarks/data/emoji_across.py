"""Emoji across vendors and languages: a name or another artist's drawing -> Google's drawing of it.

All 1,852 concepts are candidates. Asked for are those of fold 0, which the packaged encoder and aligner never
saw: by their English and Chinese names, and by Twitter's, Apple's and Facebook's pictures. A query's
`language` is its own or, of a picture, the vendor.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from . import emoji
from .judged import Question, write

TASK = "retrieval"
LICENCE = (
    "google: Apache-2.0; twitter: CC-BY-4.0; apple, facebook: not free, to measure on; names: Unicode, MIT"
)
HELD_OUT_FOLD = 0
CANDIDATES = "google"
ASKED_WITH = ("twitter", *emoji.MEASURED_VENDORS)
LANGUAGES = ("en", "zh")


def build(work: Path, out: Path) -> None:
    emoji.fetch_emoji(work)
    concepts = emoji.read_concepts(work)
    asked = [concept for concept in concepts if concept.fold == HELD_OUT_FOLD]
    for vendor, shown in {CANDIDATES: concepts, **dict.fromkeys(ASKED_WITH, asked)}.items():
        (out / "pictures" / vendor).mkdir(parents=True)
        for concept in shown:
            place = Path("pictures") / vendor / concept.picture
            shutil.copyfile(work / place, out / place)
    documents = [{"id": one.id, "image": f"pictures/{CANDIDATES}/{one.picture}"} for one in concepts]
    write(out, documents, questions(asked))


def questions(concepts: Sequence[emoji.Concept]) -> list[Question]:
    """Five of each concept, all on one side."""
    found = []
    for one in concepts:
        by_name = {language: {"text": one.names[language]} for language in LANGUAGES}
        by_picture = {vendor: {"image": f"pictures/{vendor}/{one.picture}"} for vendor in ASKED_WITH}
        for kind, query in (by_name | by_picture).items():
            row = {"id": f"{one.id}-{kind}", **query, "language": kind, "relevant": [one.id]}
            found.append(Question(one.id, row))
    return found
