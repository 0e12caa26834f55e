"""How far the workers of a run are, for a progress bar: a byte in a file for each thing done. Knows no Ray.

A task that is tried again counts again, so a count may come out above what there is.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

Counted = Literal["document", "caption", "ocr"]
"""Documents that were read, and pictures that were asked about or read, now or before."""


class Count(Protocol):
    def __call__(self, what: Counted, /) -> None: ...


def uncounted(what: Counted, /) -> None:
    """The count of a job that nobody watches."""


class Tally:
    """A `Count` to send to workers, who see its directory, and what they have counted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, what: Counted, /) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / f"{what}.{socket.gethostname()}.{os.getpid()}").open("ab") as file:
            file.write(b".")

    def counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for file in self._directory.glob("*"):
            counts[file.name.partition(".")[0]] += file.stat().st_size
        return counts


def pictures_told(counts: Mapping[str, int]) -> str:
    """Of counts, in words, what was done with pictures; "" where nothing was."""
    done = {"asked about": counts.get("caption", 0), "read": counts.get("ocr", 0)}
    return ", ".join(f"pictures {what}: {number:,}" for what, number in done.items() if number)
