"""The lines of text that were read in pictures, by content hash: ingest writes them, hits show them.

They stand beside the previews and not in the stores: a search needs those of its few hits only, and ingest
needs to know what it has read before. Knows nothing of who reads.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate
from pathlib import Path

from pipelines.core.files import replace_file
from pipelines.core.types import Line

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """All lines of one picture, in reading order. `reader` names model, version and rules that read it.

    One without a place (`has_place`) is not in the picture, but goes on with the text of the one before.
    """

    reader: str
    lines: tuple[Line, ...]


def reading_path(root: Path, content: str) -> Path:
    """Where the reading of the picture with this SHA-256 is kept."""
    return root / content[:2] / f"{content}.json"


def save_reading(root: Path, content: str, reading: Reading) -> None:
    """Write a reading over an earlier one, at once, so that no reader sees half a file."""
    path = reading_path(root, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, format_reading(reading))


def format_reading(reading: Reading) -> str:
    body = {"reader": reading.reader, "lines": [astuple(line) for line in reading.lines]}
    return json.dumps(body, ensure_ascii=False)


def parse_reading(text: str) -> Reading:
    """What `format_reading` wrote. Raises ValueError for anything else."""
    try:
        body = json.loads(text)
        return Reading(str(body["reader"]), _lines(body["lines"]))
    except (TypeError, KeyError, RecursionError) as exc:
        raise ValueError(f"no reading of a picture: {type(exc).__name__} {exc}") from exc


def load_reading(root: Path, content: str) -> Reading | None:
    """The reading of the picture with this SHA-256. None where there is none, or a damaged one, as a power
    cut may leave it: hits show no lines of it until the picture is read again."""
    path = reading_path(root, content)
    try:
        return parse_reading(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as exc:
        _LOG.warning("%s is damaged (%s): it counts for nothing", path, exc)
        return None


def has_place(line: Line) -> bool:
    """Whether its box has an area."""
    left, top, right, bottom = line.xyxy
    return left < right and top < bottom


def lines_of(text: str, lines: Sequence[Line]) -> tuple[Line, ...]:
    """Of a picture's lines those that a chunk's text says, in the picture's order.

    They are the lines that are a line of the text; of running text, as a page's is, those that it goes over.
    """
    places = defaultdict[str, set[int]](set)
    for n, line in enumerate(lines):
        places[line.text].add(n)
    running = _Running(lines)
    shown = {n for said in set(text.split("\n")) for n in places.get(said) or running.over(said)}
    return tuple(lines[n] for n in sorted(shown) if has_place(lines[n]))


class _Running:
    """Lines as one text, white space aside, which a chunk has in other places."""

    def __init__(self, lines: Sequence[Line]) -> None:
        texts = ["".join(line.text.split()) for line in lines]
        self._text, self._ends = "".join(texts), [*accumulate(map(len, texts))]

    def over(self, said: str) -> Iterator[int]:
        """The numbers of the lines that `said` goes over, wherever it stands; none where it is less than half
        of any, as a word may be by chance."""
        wanted = "".join(said.split())
        start = self._text.find(wanted) if wanted else -1
        while start >= 0:
            end = start + len(wanted)
            numbers = range(bisect_right(self._ends, start), bisect_left(self._ends, end) + 1)
            if any(self._is_half(n, start, end) for n in numbers):
                yield from numbers
            start = self._text.find(wanted, end)

    def _is_half(self, n: int, start: int, end: int) -> bool:
        line_start, line_end = self._ends[n - 1] if n else 0, self._ends[n]
        return 2 * (min(end, line_end) - max(start, line_start)) >= line_end - line_start


def _lines(rows: Sequence[tuple[str, Sequence[float], float]]) -> tuple[Line, ...]:
    return tuple(
        Line(str(text), (float(left), float(top), float(right), float(bottom)), float(confidence))
        for text, (left, top, right, bottom), confidence in rows
    )
