"""Who writes an index: a note beside the lock, for as long as it is held. Knows no job.

    DIR/writer.json    the process that holds the lock, or held it when it was killed

For those who only look: whether the lock is free is told by taking it alone, and a writer that begins just
then would be refused.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pipelines.core.files import replace_file
from pipelines.core.processes import Process

FILE: Final = "writer.json"
_PIDS: Final = Path("/proc/self/ns/pid")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Writer:
    """A process that took the lock at `since`, ISO 8601. `started`: as of a `Process`. `pids`: whose numbers
    `pid` is of, as a container that shares its host's name has its own; "" where the system does not tell."""

    host: str
    pid: int
    started: float
    since: str
    pids: str

    @classmethod
    def current(cls) -> Writer:
        process, now = Process.current(), datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), process.pid, process.started, now, _pids())

    @property
    def running(self) -> bool | None:
        """None where it cannot be seen from here: on another machine, or in another container."""
        if (self.host, self.pids) != (socket.gethostname(), _pids()):
            return None
        return Process(self.pid, self.started).alive

    def as_dict(self) -> dict[str, Any]:
        """For people and monitors: who, since when, and whether it is `running`."""
        return {"host": self.host, "pid": self.pid, "since": self.since, "running": self.running}


@contextmanager
def noted(directory: Path) -> Iterator[None]:
    """This process writes while the block lasts. Only for the holder of the write lock. A disk that has no
    room for the note, or does not let it go, ends no job: what is noted is for those who look on."""
    try:
        replace_file(directory / FILE, json.dumps(asdict(Writer.current())))
    except OSError as exc:
        _LOG.warning(
            "%s cannot be written, so `mmrag status` will not tell who writes: %s", directory / FILE, exc
        )
    try:
        yield
    finally:
        with suppress(OSError):
            (directory / FILE).unlink(missing_ok=True)


def writer_of(directory: Path) -> Writer | None:
    """The last to take the lock, unless it gave it back. None for a note that is damaged, too, as a power cut
    leaves it: the next writer's takes its place."""
    try:
        return Writer(**json.loads((directory / FILE).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _pids() -> str:
    return str(_PIDS.readlink()) if _PIDS.is_symlink() else ""
