"""From a page's stream of text, headings and pictures to passages that know their pictures.

The rules, in the words of a page:
- a picture inside a line belongs to that line's block; one in a definition's term to the definition too;
- a picture on its own, or in a figure, belongs to its caption and to the nearest block of text
  before and after it under the same heading (not to a definition after it: that is another subject);
- a figure's title belongs to all of its pictures, the caption below one of them to that one.

A picture's own caption is the first of: its figure's title and caption, the term it stands in, its
alternative text, the headings above it. Knows nothing of HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.core.plain import tidy
from pipelines.core.types import Passage
from pipelines.ingest.sources.text import shorten

# "2.5.4. Options", "Chapter 3. Tools", "Figure 14.2. Icon", "图 14.2. 图标": nobody looks for the number.
_NUMBER = re.compile(
    r"^(?:(?:chapter|appendix|part|figure|fig|table|example|第|图|圖|表|例|附录)\.?\s*"
    r"(?:[A-Z]\.)?[0-9]+(?:\.[0-9]+)*\s*[章节節]?\s*[.:：、]\s*|appendix\s+[A-Z]\.\s+|[0-9]{1,3}(?:\.[0-9]{1,3})*\.\s+)(?=\S)",
    re.IGNORECASE,
)
_HEADINGS_SHOWN = 3
_MAX_HEADING_CHARS = 160
_MAX_CAPTION_CHARS = 300
# What no page of people's exceeds: without them a hostile one takes hours.
_MAX_ALTS_SOUGHT = 1000  # in one block's text
_MAX_ABOVE_CHARS = 4000  # of the outer figures' captions, for each inner one


@dataclass(slots=True)
class _Block:
    text: str
    images: set[int]
    heading: str
    section: int
    stands_alone: bool = False
    """Whether its pictures are shown apart from text, and so belong to their neighbours too."""
    opens: bool = False
    """Whether it begins with a term, and so turns to another subject than the block before."""


@dataclass(slots=True)
class _Frame:
    """A figure that is open: its pictures, and what captions say of all of them."""

    images: dict[int, None] = field(default_factory=dict)  # in order, each once
    captions: list[str] = field(default_factory=list)
    described: list[str] = field(default_factory=list)
    inner: list[_Frame] = field(default_factory=list)


class Blocks:
    """Receives a page's pieces in reading order; `finish` gives its passages and captions."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []
        self._captions: dict[int, tuple[int, str]] = {}
        self._headings: list[tuple[int, str]] = []
        self._section = 0
        self._text: list[str] = []
        self._cell_has_text = False
        self._images: list[tuple[int, str]] = []
        self._frames: list[_Frame] = []
        self._terms: list[str] = []
        self._defined: list[str] = []  # the term of each list that is open, which this text defines
        self._term_images: list[int] = []

    @property
    def in_frame(self) -> bool:
        return bool(self._frames)

    def text(self, text: str) -> None:
        if text:
            self._text.append(text)
            self._cell_has_text = self._cell_has_text or not text.isspace()

    def picture(self, ordinal: int, described: str) -> None:
        """A picture here; `described` is what it says of itself."""
        if self._frames:
            self._frames[-1].images[ordinal] = None
            self._frames[-1].described.append(described)
        else:
            self._images.append((ordinal, described))
        self._caption(ordinal, 2, described)

    def cell(self) -> None:
        """The end of a table's cell: its row stays one block."""
        if self._cell_has_text:
            self._text.append(" \u2502 ")
            self._cell_has_text = False

    def close(self) -> None:
        """The end of a block of text."""
        text = self._take()
        images, self._images = self._images, []
        if self._frames and text:
            self._add(text, list(self._frames[-1].images))
        elif text:
            alts = _unsaid((alt for _, alt in images), text)
            self._add(" ".join([text, *alts]), [ordinal for ordinal, _ in images])
        elif images:
            said = [alt for _, alt in images if alt]
            self._add(
                "\u3000".join(dict.fromkeys(said)), [ordinal for ordinal, _ in images], stands_alone=True
            )

    def heading(self, level: int) -> None:
        """The end of a heading, whose text came since the last block was closed."""
        text = _unnumbered(self._take())
        images, self._images = self._images, []
        if text:
            self._headings = [held for held in self._headings if held[0] < level]
            self._headings.append((level, text))
            self._section += 1
        if images:
            self._add("", [ordinal for ordinal, _ in images], stands_alone=True)

    def term(self) -> None:
        """The end of a term: it stands before the text that defines it."""
        text = self._take().strip(" :：")
        images, self._images = self._images, []
        for ordinal, _ in images:
            self._caption(ordinal, 1, text)
        self._term_images += [ordinal for ordinal, _ in images]
        if text:
            self._terms.append(text)

    def open_list(self) -> None:
        self._defined.append("")

    def close_list(self) -> None:
        """The end of a list of definitions: a term that nothing defined stands for itself."""
        if self._terms or self._term_images:
            self._add("", [])
        if self._defined:
            self._defined.pop()

    def open_frame(self) -> None:
        frame = _Frame()
        if self._frames:
            self._frames[-1].inner.append(frame)
        self._frames.append(frame)

    def caption(self) -> None:
        """The end of a caption of the innermost open figure."""
        text = _unnumbered(self._take())
        if text:
            self._frames[-1].captions.append(text)

    def close_frame(self) -> None:
        frame = self._frames.pop()
        if not self._frames:
            self._add_frame(frame, "")

    def finish(self, title: str) -> tuple[tuple[Passage, ...], tuple[str, ...]]:
        """Every passage, and a caption for every picture by ordinal. A page without text is its title."""
        self.close()
        self.close_list()
        title = _unnumbered(title)
        self._link_neighbours()
        told = {ordinal for block in self._blocks if block.text for ordinal in block.images}
        passages = []
        for block in self._blocks:
            heading = block.heading or title
            images = tuple(sorted(block.images))
            if block.text and heading and block.text != heading:
                passages.append(Passage(f"{heading}\n{block.text}", images))
            elif block.text or (heading and not told.issuperset(images)):
                passages.append(Passage(block.text or heading, images))
            for ordinal in images:
                self._caption(ordinal, 3 if block.stands_alone else 4, heading)
        if not passages and title:
            passages.append(Passage(title))
        captions = tuple(self._captions[n][1] if n in self._captions else title for n in range(self._count()))
        return tuple(passages), captions

    def _count(self) -> int:
        return 1 + max((ordinal for block in self._blocks for ordinal in block.images), default=-1)

    def _take(self) -> str:
        text = tidy("".join(self._text)).strip("\u2502 ")
        self._text, self._cell_has_text = [], False
        return text

    def _caption(self, ordinal: int, rank: int, text: str) -> None:
        """Keep the caption of the best (lowest) rank, and the first of these."""
        if text and (ordinal not in self._captions or rank < self._captions[ordinal][0]):
            self._captions[ordinal] = (rank, shorten(text, _MAX_CAPTION_CHARS))

    def _path(self, term: str = "") -> str:
        texts = [text for text in (*(text for _, text in self._headings), *self._defined, term) if text]
        return shorten(" › ".join(map(_head, texts[-_HEADINGS_SHOWN:])), _MAX_HEADING_CHARS)

    def _add(self, text: str, images: list[int], *, stands_alone: bool = False) -> None:
        opens = bool(self._terms) and not stands_alone
        terms = "; ".join(self._terms) if opens else ""
        if opens:
            text = f"{terms}: {text}" if text else terms
            self._terms = []
            if self._defined:
                self._defined[-1] = ""
        if self._term_images and not stands_alone:
            images = images + self._term_images
            self._term_images = []
        waiting = self._terms[:_MAX_HEADING_CHARS] if stands_alone else []  # for what defines them
        block = _Block(text, set(images), self._path("; ".join(map(_head, waiting))), self._section)
        block.stands_alone, block.opens = stands_alone, opens
        self._blocks.append(block)
        # The first block of a definition begins with its term; those after it stand under it.
        if opens and self._defined:
            self._defined[-1] = terms

    def _add_frame(self, frame: _Frame, above: str) -> list[int]:
        """Add the figure's captions as blocks, the outermost first; its pictures, with those inside."""
        own = ". ".join(text.rstrip(".") for text in dict.fromkeys(frame.captions))
        place = len(self._blocks)
        images = list(frame.images)
        said = f"{above}: {own}" if above and own else above or own
        for inner in frame.inner:
            images += self._add_frame(inner, said[:_MAX_ABOVE_CHARS])
        if not images:
            if own:
                self._add(own, [])
            return images
        for ordinal in images:
            self._caption(ordinal, 0, said)
        alts = _unsaid(frame.described, said)
        text = ". ".join(part for part in (own, *alts) if part)
        if text or not frame.inner:
            self._blocks.insert(
                place, _Block(text, set(images), self._path(), self._section, stands_alone=True)
            )
        return images

    def _link_neighbours(self) -> None:
        """Give the pictures that stand alone to the text next to them, within their section."""
        for forward in (True, False):
            waiting: set[int] = set()
            section = -1
            for block in self._blocks if forward else reversed(self._blocks):
                if block.section != section:
                    waiting, section = set(), block.section
                if block.stands_alone:
                    waiting |= block.images
                else:
                    if block.text and not (forward and block.opens):
                        block.images |= waiting
                    waiting = set()


def _unsaid(alts: Iterable[str], text: str) -> list[str]:
    """Those that the text does not say, each once."""
    each = list(dict.fromkeys(filter(None, alts)))
    folded = text.casefold() if each else ""
    sought, others = each[:_MAX_ALTS_SOUGHT], each[_MAX_ALTS_SOUGHT:]
    return [alt for alt in sought if alt.casefold() not in folded] + others


def _head(text: str) -> str:
    """As much of it as can be seen in a heading: it is put together anew for each block."""
    return text[: _MAX_HEADING_CHARS + 1]


def _unnumbered(text: str) -> str:
    return _NUMBER.sub("", text)
