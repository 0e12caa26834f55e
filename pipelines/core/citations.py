"""A model's text, as it comes -> words to show, citations and boxes. Knows no model and no prompt.

`[2]` cites evidence 2, `[1, 3]` two of them, and so do `【2】` and `［2］`, which are shown as `[2]`;
`[[x1,y1,x2,y2]]` right behind a citation is a box on that evidence's picture, and elsewhere one on the
question's own. What points at nothing is taken out and counted.
Boxes never stay in the text: they are in the model's units, which mean nothing to a reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines.core.grounding import Box, Frame, in_bounds, parse_boxes
from pipelines.core.statements import BRACKETS, MARK
from pipelines.core.types import PlacedBox

_CITATION = re.compile(rf"{MARK}|\[\[\s*[0-9]{{1,3}}\s*\]\]")
_OPENING = re.compile(rf"[\{BRACKETS}]")
_UNDECIDED = re.compile(r"\[[\[\]0-9.,，\s-]*|[【［][0-9,，\s]*")
_MOST_HELD = 256
"""Characters from the bracket on after which it is text: a group of about ten boxes."""
_CLAUSE = re.compile(r"[.!?;:,。！？；：，\n](?=\s|$)|[。！？；：，\n]")
_LABEL = 60


class AnswerReader:
    """Reads one answer. `evidence` is how many pieces there are; `frames` are the pictures that the model
    saw, by the number of their evidence, or "query"."""

    def __init__(self, evidence: int, frames: Mapping[int | Literal["query"], Frame]) -> None:
        self._evidence, self._frames = evidence, frames
        self._held = ""
        self._cited_last: int | None = None
        self._text: list[str] = []
        self.cited: list[int] = []
        """In the order of their first mention."""
        self.boxes: list[PlacedBox] = []
        self.dropped = {"citations": 0, "boxes": 0}

    @property
    def text(self) -> str:
        """All that has been shown."""
        return "".join(self._text)

    def feed(self, piece: str) -> str:
        """What can be shown now that `piece` has come. What may yet become a mark is held back."""
        self._held += piece
        return self._show(final=False)

    def close(self) -> str:
        """The rest, when nothing more comes."""
        return self._show(final=True)

    def _show(self, *, final: bool) -> str:
        shown: list[str] = []
        while self._held:
            opening = _OPENING.search(self._held)
            at = opening.start() if opening else len(self._held)
            words, marked = self._held[:at], self._held[at:]
            kept = words.rstrip() if marked or not final else words
            if kept:
                self._say(kept, shown)
            space = words[len(kept) :]
            if not marked:  # space at the end: a mark that is taken out takes it along
                self._held = space if not final else ""
                break
            taken = self._mark(space, marked, shown, final=final)
            if taken == 0:
                self._held = space + marked
                break
            self._held = marked[taken:]
        made = "".join(shown)
        if not self.text:
            made = made.lstrip()
        self._text.append(made)
        return made

    def _mark(self, space: str, text: str, shown: list[str], *, final: bool) -> int:
        """Read the mark that `text` begins with; returns its length, 0 when more is needed to tell."""
        groups = parse_boxes(text)
        if groups and groups[0].start == 0:
            self._place(groups[0].boxes, shown)
            return groups[0].end
        if found := _CITATION.match(text):
            self._cite([int(number) for number in re.findall("[0-9]+", found[0])], space, shown)
            return found.end()
        undecided = _UNDECIDED.match(text)
        if not final and undecided and undecided.end() == len(text) <= _MOST_HELD:
            return 0
        # A list of lists, such as a matrix, holds no citations.
        end = _closed(text) if text.startswith("[[") else 1
        self._say(space + text[:end], shown)
        return end

    def _say(self, words: str, shown: list[str]) -> None:
        shown.append(words)
        self._cited_last = None

    def _cite(self, numbers: Sequence[int], space: str, shown: list[str]) -> None:
        valid = [number for number in numbers if 1 <= number <= self._evidence]
        self.dropped["citations"] += len(numbers) - len(valid)
        self._cited_last = valid[-1] if valid else 0
        if valid:
            shown.append(space + "".join(f"[{number}]" for number in valid))
            self.cited += [number for number in dict.fromkeys(valid) if number not in self.cited]

    def _place(self, boxes: Sequence[Box], shown: Sequence[str]) -> None:
        """0 as the last citation: one that pointed at nothing, as its boxes do then."""
        picture: int | Literal["query"] = "query" if self._cited_last is None else self._cited_last
        frame = self._frames.get(picture)
        label = _label("".join([*self._text, *shown]))
        for box in boxes:
            placed = frame.to_original(box) if frame else None
            if frame is None or placed is None or not in_bounds(placed, frame.width, frame.height):
                self.dropped["boxes"] += 1
            else:
                self.boxes.append(PlacedBox(picture, placed, label))


def _closed(text: str) -> int:
    """Where the list that `text` begins with ends; 1 when it is no closed list of numbers."""
    depth = 0
    run = _UNDECIDED.match(text)
    for at, character in enumerate(run[0] if run else "", start=1):
        depth += {"[": 1, "]": -1}.get(character, 0)
        if depth == 0:
            return at
    return 1


def _label(said: str) -> str:
    """The last clause, without citations."""
    words = _CITATION.sub("", said).strip()
    clauses = [clause.strip() for clause in _CLAUSE.split(words) if clause.strip()]
    return clauses[-1][-_LABEL:] if clauses else ""
