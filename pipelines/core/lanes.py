"""Threads of their own for calls of each kind: those that hang hold up no others. Knows no store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Lanes:
    """Each has so many threads. What they cannot take up at once waits for them until its deadline; where
    each has been at one call for longer than `hanging_s`, a new call is refused: a cancelled future."""

    def __init__(self, names: Iterable[str], threads: int, hanging_s: float) -> None:
        self._hanging_s = hanging_s
        self._lanes = {name: _Lane(name, threads) for name in names}

    def submit(self, name: str, call: Callable[..., T], *arguments: Any) -> Future[T]:
        """In the caller's context: what it logs and traces stays one request's."""
        lane = self._lanes[name]
        if lane.idle_s > self._hanging_s:
            refused = Future[T]()
            refused.cancel()
            return refused
        return lane.pool.submit(copy_context().run, lane.run, call, *arguments)

    def wait(self, futures: Collection[Future[Any]], deadline: float) -> None:
        """Until they are done, or the deadline. One that no thread has taken up by then is cancelled."""
        for late in wait(futures, timeout=max(0.0, deadline - time.monotonic())).not_done:
            late.cancel()

    def close(self) -> None:
        for lane in self._lanes.values():
            lane.pool.shutdown(wait=False, cancel_futures=True)


class _Lane:
    def __init__(self, name: str, threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads, name)
        self._threads = threads
        self._lock = threading.Lock()
        self._began_s: dict[int, float] = {}  # of the calls that go on, by thread

    @property
    def idle_s(self) -> float:
        """For how long no thread has taken up a call; 0 while one is free."""
        with self._lock:
            is_full = len(self._began_s) == self._threads
            return time.monotonic() - max(self._began_s.values()) if is_full else 0.0

    def run(self, call: Callable[..., T], *arguments: Any) -> T:
        thread = threading.get_ident()
        with self._lock:
            self._began_s[thread] = time.monotonic()
        try:
            return call(*arguments)
        finally:
            with self._lock:
                del self._began_s[thread]
