"""Split a document's passages into chunks to embed and to find. Pure: reads nothing, knows no store.

A passage is `body` or `heading⏎body` (see `sources`). Every piece of a long one keeps its heading;
short neighbours of the same pictures and source become one chunk, under one heading where they share it. So
do a picture's caption and what OCR read in it, as a hit shows one chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.core.plain import storable, tidy
from pipelines.core.types import Document, Part, Passage, part_id

RULES = "chunk/2"
"""The version of these rules, for the parts fingerprint."""

# Where a text may be cut, best first: after a sentence, after a clause, between words.
_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<=[.!?][\"'”’)\]])\s+|(?<=[.!?…])\s+|(?<=[。！？；…][」』”’）])|(?<=[。！？；])(?![」』”’）])",
        r"(?<=[,;:])\s+|(?<=[，、：])",
        r"\s+",
    )
)


class ChunkConfig(BaseModel):
    """Bounds of a chunk, its heading included.

    Neighbours are merged while they stay within `merge_chars`. Each further piece of a long passage
    begins with up to `overlap_chars` of the sentence before it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_chars: int = Field(800, ge=50)
    max_bytes: int = Field(2400, ge=200)
    merge_chars: int = Field(400, ge=0)
    overlap_chars: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _in_proportion(self) -> Self:
        if self.merge_chars > self.max_chars:
            raise ValueError("merge_chars must not be above max_chars")
        if self.overlap_chars > self.max_chars // 4:
            raise ValueError("overlap_chars must not be above a quarter of max_chars")
        return self

    def fits(self, text: str) -> bool:
        return len(text) <= self.max_chars and len(text.encode()) <= self.max_bytes


def chunks(document: Document, config: ChunkConfig) -> tuple[Part, ...]:
    """The document's chunks in reading order, each with the ids of the pictures that it belongs to."""
    passages = tuple(
        replace(passage, source=passage.source or document.source) for passage in document.passages
    )
    return tuple(
        Part(
            id=part_id(document.id, "chunk", ordinal),
            kind="chunk",
            document_id=document.id,
            source=passage.source,
            text=passage.text,
            image_ids=tuple(part_id(document.id, "image", image) for image in passage.images),
            metadata=document.metadata,
            tenant=document.tenant,
        )
        for ordinal, passage in enumerate(merged(passages, config))
    )


def merged(passages: tuple[Passage, ...], config: ChunkConfig) -> Iterator[Passage]:
    """Passages within the bounds: long ones split, short neighbours with the same pictures joined."""
    held: Passage | None = None
    held_heading = ""
    for passage in passages:
        heading, body = _parts(passage.text, config)
        if not body:
            continue
        for piece in split(body, heading, config):
            if held is not None:
                joined = f"{held.text}\n{_under(_further(heading, held_heading), piece)}"
                short = len(joined) <= config.merge_chars and config.fits(joined)
                if short and (held.images, held.source) == (passage.images, passage.source):
                    held, held_heading = replace(held, text=joined), heading
                    continue
                yield held
            held, held_heading = replace(passage, text=_under(heading, piece)), heading
    if held is not None:
        yield held


def split(body: str, heading: str, config: ChunkConfig) -> Iterator[str]:
    """Pieces of the body that fit below the heading: whole sentences while they fit, else cut smaller."""
    above = f"{heading}\n" if heading else ""
    room = ChunkConfig.model_construct(
        max_chars=config.max_chars - len(above), max_bytes=config.max_bytes - len(above.encode())
    )
    piece = ""
    for sentence in _sentences(body, room, 0):
        if piece and not room.fits(piece + sentence):
            yield piece.strip()
            overlap = _tail(piece, config.overlap_chars)
            piece = overlap if room.fits(overlap + sentence) else ""
        piece += sentence
    if piece.strip():
        yield piece.strip()


def _sentences(text: str, room: ChunkConfig, depth: int) -> Iterator[str]:
    """The text in pieces that fit, cut as well as can be. Joined, they are the text."""
    if depth == len(_CUTS):
        yield from _hard_cuts(text, room)
        return
    start = 0
    for cut in [match.end() for match in _CUTS[depth].finditer(text)] + [len(text)]:
        sentence = text[start:cut]
        start = cut
        if room.fits(sentence):
            if sentence:
                yield sentence
        else:
            yield from _sentences(sentence, room, depth + 1)


def _hard_cuts(text: str, room: ChunkConfig) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for character in text:
        width = len(character.encode())
        if len(piece) + 1 > room.max_chars or size + width > room.max_bytes:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(character)
        size += width
    if piece:
        yield "".join(piece)


def _parts(text: str, config: ChunkConfig) -> tuple[str, str]:
    """Heading and body, both on one line; a heading that would fill half a chunk is part of the body."""
    heading, line_break, body = storable(text).strip().partition("\n")
    heading, body = tidy(heading), tidy(body)
    if not line_break or not body:
        return "", heading or body
    if len(heading) > config.max_chars // 2 or len(heading.encode()) > config.max_bytes // 2:
        return "", f"{heading} {body}"
    return heading, body


def _further(heading: str, standing: str) -> str:
    """What the heading adds to the one that already stands above: of "A › B" under "A", "B"."""
    return "" if heading == standing else heading.removeprefix(f"{standing} › ")


def _under(heading: str, body: str) -> str:
    return f"{heading}\n{body}" if heading else body


def _tail(text: str, max_chars: int) -> str:
    """The last words of a piece, at most `max_chars`, from the start of a word."""
    if max_chars == 0:
        return ""
    if len(text) <= max_chars:
        return text
    tail = text[-max_chars:]
    space = tail.find(" ")
    return tail[space + 1 :] if 0 <= space < len(tail) - 1 else tail
