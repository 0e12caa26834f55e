"""What the workers of a run have in hand, noted on the disk: what kills one process after another is refused.

Ray tries a task again whose process died, on the same items: a file that crashes its reader, or takes all
memory, would be read for ever. Knows no Ray.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

KILLS: Final = 3
"""So many processes may die over an item: one or two may have been lost with their machines."""


class InHand:
    """Notes under a directory that all workers see, one for each process: that of one that is killed stays.
    Without a directory nothing is noted."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def __call__(self, what: str) -> None:
        """This process takes it up; "" where it has nothing in hand any more."""
        if self._directory is None:
            return
        note = self._directory / f"{socket.gethostname()}.{os.getpid()}"
        if what:
            self._directory.mkdir(parents=True, exist_ok=True)
            note.write_bytes(_bytes(what))
        else:
            note.unlink(missing_ok=True)

    def killers(self, among: Iterable[str]) -> set[str]:
        """Those of these over which so many processes died."""
        noted = self._noted()
        return {what for what in among if noted[_bytes(what)] >= KILLS} if noted else set()

    def suspects(self) -> list[str]:
        """Over what more than one process died."""
        return [what.decode(errors="replace") for what, count in self._noted().most_common() if count > 1]

    def _noted(self) -> Counter[bytes]:
        noted = Counter[bytes]()
        for note in self._directory.glob("*") if self._directory else ():
            with suppress(FileNotFoundError):  # its process is done with it
                noted[note.read_bytes()] += 1
        return noted


def _bytes(what: str) -> bytes:
    return what.encode(errors="surrogatepass")  # a name of a tar may hold half a pair
