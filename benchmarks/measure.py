"""Paired timing: two things in turn, in one run, and the median of their ratios with its interval."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired ratios and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f}, {self.pairs} pairs)"


def ratio(numerators: list[float], denominators: list[float]) -> Ratio:
    ratios = np.array(numerators) / np.array(denominators)
    drawn = np.random.default_rng(0).choice(ratios, size=(10_000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Ratio(statistics.median(ratios.tolist()), float(low), float(high), len(ratios))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def peak_memory(pid: int) -> Iterator[dict[str, float]]:
    """Samples the resident, unshared memory of a process and all its descendants: `peak_mb` at the end.

    Ray's object store is shared memory and counted once, as the largest share of any process. The embedded
    vector servers, which hold their index in memory, are counted apart: `servers_mb`.
    """
    found = {"peak_mb": 0.0, "servers_mb": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            job, servers = _tree_mb(pid)
            found["peak_mb"] = max(found["peak_mb"], job)
            found["servers_mb"] = max(found["servers_mb"], servers)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _tree_mb(pid: int) -> tuple[float, float]:
    """MiB of the tree of processes without the embedded vector servers, and of those."""
    private, servers, shared = 0, 0, 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    for process in processes:
        try:
            memory, command = process.memory_info(), process.cmdline()
        except psutil.NoSuchProcess:
            continue
        own = memory.rss - getattr(memory, "shared", 0)
        if "pipelines.core.stores.embedded" in command:
            servers += own
            continue
        private += own
        shared = max(shared, getattr(memory, "shared", 0))
    return (private + shared) / 2**20, servers / 2**20
