"""The lines of text that were read in pictures, by content hash: ingest writes them, hits show them.

They stand beside the previews and not in the stores: a search needs those of its few hits only, and ingest
needs to know what it has read before. Knows nothing of who reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from pipelines.core.errors import StoreError
from pipelines.core.types import Line


@dataclass(frozen=True, slots=True)
class Reading:
    """All lines of one picture, in reading order. `reader` names model, version and rules that read it."""

    reader: str
    lines: tuple[Line, ...]


def reading_path(root: Path, content: str) -> Path:
    """Where the reading of the picture with this SHA-256 is kept."""
    return root / content[:2] / f"{content}.json"


def save_reading(root: Path, content: str, reading: Reading) -> None:
    """Write a reading over an earlier one, at once, so that no reader sees half a file."""
    path = reading_path(root, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{content}.{os.getpid()}")
    beside.write_text(format_reading(reading), encoding="utf-8")
    beside.replace(path)


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
    """The reading of the picture with this SHA-256; None where there is none. Raises StoreError."""
    path = reading_path(root, content)
    try:
        return parse_reading(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise StoreError(f"{path} is damaged ({exc}); delete it: hits then show no lines of it") from exc


def _lines(rows: Sequence[tuple[str, Sequence[float], float]]) -> tuple[Line, ...]:
    return tuple(
        Line(str(text), (float(left), float(top), float(right), float(bottom)), float(confidence))
        for text, (left, top, right, bottom), confidence in rows
    )
