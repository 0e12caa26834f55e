"""Processes of this machine, known by pid and start time. Knows not what they do."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Final, Self

import psutil

_POLL_S: Final = 0.1
# A process's start time is computed from the boot time, which moves when the clock is set.
_SAME_START_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process that a reused pid cannot be mistaken for."""

    pid: int
    started: float

    @classmethod
    def current(cls) -> Self:
        return cls(os.getpid(), psutil.Process().create_time())

    @property
    def alive(self) -> bool:
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def end(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after `grace_s`."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + grace_s
            while self.alive and time.monotonic() < deadline:
                try:
                    os.kill(self.pid, sent)
                except ProcessLookupError:
                    return
                time.sleep(_POLL_S)
