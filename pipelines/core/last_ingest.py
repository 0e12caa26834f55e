"""When an index was last brought up to date: the end of the last ingest that did not fail. Knows no job.

In a file of the index, so that a server can tell it: an ingest and its Ray are gone before anybody scrapes
them, and one that never ran tells nothing.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Final

from pipelines.core.files import replace_file

FILE: Final = "last-ingest"


def note_ingest(directory: Path) -> None:
    """Only for the holder of the write lock."""
    keep(directory, time.time())


def keep(directory: Path, at: float | None) -> None:
    """Write what `last_ingest` gives. Only for the holder of the write lock."""
    if at is None:
        (directory / FILE).unlink(missing_ok=True)
    else:
        replace_file(directory / FILE, f"{at:.0f}\n")


def last_ingest(directory: Path) -> float | None:
    """In seconds of Unix time; None before the first, or where the file cannot be read or tells no time: the
    next ingest writes it anew."""
    try:
        at = float((directory / FILE).read_text("ascii"))
    except (OSError, ValueError):
        return None
    return at if 0 <= at < math.inf else None
