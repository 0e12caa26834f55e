"""Processes by what their command lines tell, for scripts and tests that kill some of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress

import psutil


def command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to those that have not ended meanwhile."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def matching(pattern: str, among: Iterable[psutil.Process] | None = None) -> list[psutil.Process]:
    """Those in whose command line the pattern is found, of all of the machine's by default."""
    processes = psutil.process_iter() if among is None else among
    return [process for process in processes if re.search(pattern, command(process))]


def vector_servers(index: object) -> list[psutil.Process]:
    """The embedded vector servers of an index directory."""
    return matching(rf"pipelines\.core\.stores\.embedded .*{re.escape(str(index))}/")
