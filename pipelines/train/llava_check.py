"""Look at a data set before it is trained on: what is in it, and which rows cannot be used, and why.

Reads every row and every picture; stops at no bad one. With a processor also the lengths in tokens.
Knows nothing of the model's weights or of the loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipelines.core.errors import BadPart
from pipelines.core.grounding import FrameConfig, in_bounds
from pipelines.train.chat_tokens import ChatTokens
from pipelines.train.conversations import BadRow, ConversationFile, Sample
from pipelines.train.llava_batch import decoded, in_frame_units, picture_shape, placed_boxes

_SHOWN_ROWS = 20
_BINS = 12
_BAR = 40


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths in tokens of the rows that can be tokenised, whole.

    `bins` are (from, to, rows), `to` not included. Of rows above the limit, `shortened` lose whole turns at
    their end; the others are among the bad rows.
    """

    limit: int
    longest: int
    mean: float
    bins: tuple[tuple[int, int, int], ...]
    shortened: int


@dataclass(frozen=True, slots=True)
class Report:
    """What `check` saw. Each row is good, or in `bad` once, with its line. `lengths` needs a processor."""

    file: str
    rows: int
    good: int
    bad: tuple[BadRow, ...]
    turns: int
    pictures: int
    text_only: int
    missing_pictures: int
    boxes: int
    boxes_out_of_bounds: int
    lengths: Lengths | None

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        lengths = self.lengths and {
            "limit": self.lengths.limit,
            "longest": self.lengths.longest,
            "mean": round(self.lengths.mean, 1),
            "histogram": [{"from": low, "to": high, "rows": rows} for low, high, rows in self.lengths.bins],
            "shortened": self.lengths.shortened,
        }
        return {
            "file": self.file,
            "rows": self.rows,
            "good": self.good,
            "bad": [{"line": row.line, "id": row.id, "reason": row.reason} for row in self.bad],
            "turns": self.turns,
            "pictures": self.pictures,
            "text_only": self.text_only,
            "missing_pictures": self.missing_pictures,
            "boxes": self.boxes,
            "boxes_out_of_bounds": self.boxes_out_of_bounds,
            "tokens": lengths,
        }

    def __rich__(self) -> Group:
        """What `rich.print(report)` shows."""
        return Group(*self._blocks())

    def _blocks(self) -> Iterator[Table | Text]:
        totals = Table(show_header=False, box=None)
        totals.add_row("rows", f"{self.rows:,}: {self.good:,} good, {len(self.bad):,} bad")
        totals.add_row("turns", f"{self.turns:,} in good rows")
        totals.add_row("pictures", f"{self.pictures:,}; {self.text_only:,} good rows have none")
        totals.add_row("missing pictures", f"{self.missing_pictures:,}")
        totals.add_row("boxes", f"{self.boxes:,}, {self.boxes_out_of_bounds:,} out of bounds")
        if self.lengths:
            totals.add_row("tokens", f"longest {self.lengths.longest:,}, mean {self.lengths.mean:,.0f}")
            over = f"{self.lengths.shortened:,} rows lose turns at their end"
            totals.add_row(f"over {self.lengths.limit:,}", f"{over}; rows that cannot be shortened are bad")
        yield totals
        if self.lengths and self.lengths.bins:
            yield _histogram(self.lengths)
        if self.bad:
            yield _bad_rows(self.bad)


def check(
    data: Path,
    image_root: Path | None = None,
    processor: Any | None = None,
    frame: FrameConfig | None = None,
    max_tokens: int = 2048,
) -> Report:
    """Raises UsageError when the file cannot be read at all, or the processor cannot be trained with."""
    rows = ConversationFile(data, image_root)
    chat = ChatTokens(processor, picture_shape(processor).tokens_per_image) if processor is not None else None
    seen = _Seen(frame or FrameConfig(), chat, max_tokens)
    for ordinal in range(len(rows)):
        (row,) = rows.read([ordinal])
        seen.add(row)
    return Report(
        file=str(data),
        rows=len(rows),
        good=len(rows) - len(seen.bad),
        bad=tuple(seen.bad),
        turns=seen.counts["turns"],
        pictures=seen.counts["pictures"],
        text_only=seen.counts["text only"],
        missing_pictures=seen.counts["missing"],
        boxes=seen.counts["boxes"],
        boxes_out_of_bounds=seen.counts["outside"],
        lengths=seen.lengths() if chat else None,
    )


class _Seen:
    """What was seen so far, row by row."""

    def __init__(self, frame: FrameConfig, chat: ChatTokens | None, max_tokens: int) -> None:
        self.bad: list[BadRow] = []
        self.counts: Counter[str] = Counter()
        self._frame, self._chat, self._max_tokens = frame, chat, max_tokens
        self._lengths: list[int] = []

    def add(self, row: Sample | BadRow) -> None:
        if isinstance(row, BadRow):
            self.bad.append(row)
            self.counts["missing"] += len(row.missing)
            return
        try:
            self._look_at(row)
        except BadPart as exc:
            self.bad.append(BadRow(row.line, row.id, str(exc)))
            return
        self.counts["turns"] += len(row.turns)
        self.counts["pictures"] += len(row.images)
        self.counts["text only"] += not row.images

    def lengths(self) -> Lengths:
        found = self._lengths
        mean = sum(found) / len(found) if found else 0.0
        return Lengths(self._max_tokens, max(found, default=0), mean, _bins(found), self.counts["shortened"])

    def _look_at(self, sample: Sample) -> None:
        pictures = (decoded(sample, number) for number in range(len(sample.images)))
        frames = [self._frame.of(picture.width, picture.height) for picture in pictures]
        for _, at, box in placed_boxes(sample.turns, frames):
            self.counts["boxes"] += 1
            self.counts["outside"] += not in_bounds(box, at.width, at.height)
        turns = in_frame_units(sample.turns, frames)
        if self._chat:
            whole = self._chat(turns)
            self._lengths.append(len(whole.input_ids))
            if len(whole.input_ids) > self._max_tokens:
                self._chat(turns, self._max_tokens)
                self.counts["shortened"] += 1


def _bins(lengths: list[int]) -> tuple[tuple[int, int, int], ...]:
    """Equal bins of a round width (1, 2 or 5 times a power of ten), at most _BINS of them, without the empty
    ones at the ends."""
    if not lengths:
        return ()
    spread = max(lengths) + 1 - min(lengths)
    widths = (factor * 10**power for power in range(12) for factor in (1, 2, 5))
    width = next(width for width in widths if width * (_BINS - 1) >= spread)
    counts = Counter(length // width for length in lengths)
    return tuple(
        (number * width, (number + 1) * width, counts[number])
        for number in range(min(counts), max(counts) + 1)
    )


def _histogram(lengths: Lengths) -> Table:
    table = Table("tokens", "rows", "", box=None)
    most = max(rows for _, _, rows in lengths.bins)
    for low, high, rows in lengths.bins:
        table.add_row(f"{low:,}-{high - 1:,}", f"{rows:,}", "█" * round(_BAR * rows / most))
    return table


def _bad_rows(bad: tuple[BadRow, ...]) -> Table:
    more = f" (the first {_SHOWN_ROWS} of {len(bad):,}; --json has all)" if len(bad) > _SHOWN_ROWS else ""
    table = Table("line", "id", "what is wrong" + more)
    for row in bad[:_SHOWN_ROWS]:
        table.add_row(f"{row.line}", Text(row.id[:60]), Text(row.reason))
    return table
