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

    def __call__(self, what: str, part: str = "") -> None:
        """This process takes it up; "" where it has nothing in hand any more. What several processes may have
        in hand at one time, each takes up for another `part`."""
        if self._directory is None:
            return
        note = self._directory / f"{socket.gethostname()}.{os.getpid()}"
        if what:
            self._directory.mkdir(parents=True, exist_ok=True)
            note.write_bytes(_bytes(f"{what}\0{part}"))
        else:
            note.unlink(missing_ok=True)

    def killers(self, among: Iterable[str]) -> set[str]:
        """Those of these over a part of which so many processes died."""
        killed = self._noted(KILLS)
        return {what for what in among if _bytes(what) in killed} if killed else set()

    def suspects(self) -> list[str]:
        """Over what more than one process died."""
        return sorted(what.decode(errors="replace") for what in self._noted(2))

    def _noted(self, times: int) -> set[bytes]:
        """What stands in so many notes, with the same part: one of them may be of a process that lives."""
        noted = Counter[bytes]()
        for note in self._directory.glob("*") if self._directory else ():
            with suppress(OSError):  # its process is done with it; on a network's disk that is ESTALE
                noted[note.read_bytes()] += 1
        return {note.partition(b"\0")[0] for note, count in noted.items() if count >= times}


def _bytes(what: str) -> bytes:
    return what.encode(errors="surrogatepass")  # a name of a tar may hold half a pair
