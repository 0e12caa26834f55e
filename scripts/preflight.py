"""Look before the leap: can this machine install and run mmrag? `make install` asks this first.

    python3 scripts/preflight.py [--venv DIR] [--cpu-wheels]

One line for each problem, with what to do about it. Exit status 1 only for what cannot work; what
may still work is a warning. Standard library only, and it runs on any Python from 3.8, so that an old
one gets this line and not a traceback. `look` measures the machine, `problems` judges what it found.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

PYTHONS = ((3, 11), (3, 12))
GIB = 1 << 30
DISK = 5 * GIB  # the environment and what pip unpacks beside it
DISK_CUDA = 10 * GIB  # the same with the CUDA build of torch, which is Linux's default
MEMORY = 4 * GIB
SHARED_MEMORY = GIB
GLIBC = (2, 28)  # torch's wheels
MACOS = (14, 0)  # torch's wheels


class Machine(NamedTuple):
    """What was found. `None`: not to be known here, or there is no such thing here."""

    python: tuple[int, ...]
    other_pythons: tuple[str, ...]  # commands on the PATH that would do
    has_venv: bool
    bits: int
    system: str  # Linux, Darwin, Windows
    cpu: str
    release: tuple[int, ...] | None  # of glibc on Linux, None for another C library; of macOS there
    disk_free: int | None
    memory: int | None
    shared_memory_free: int | None
    cpu_wheels: bool = False  # a CPU build of torch was asked for


class Problem(NamedTuple):
    fatal: bool
    text: str


def problems(machine: Machine) -> list[Problem]:
    """Everything that stands in the way, and what to do about it."""
    found = [*_python(machine), *_platform(machine), *_room(machine)]
    return sorted(found, key=lambda problem: not problem.fatal)


def _python(machine: Machine) -> list[Problem]:
    found = []
    version = ".".join(map(str, machine.python[:2]))
    if machine.python[:2] not in PYTHONS:
        use = machine.other_pythons[0] if machine.other_pythons else None
        advice = f"make install PYTHON={use}" if use else "install one, then make install PYTHON=python3.11"
        found.append(Problem(True, f"Python {version} is not supported, 3.11 and 3.12 are: {advice}"))
    elif not machine.has_venv:
        found.append(
            Problem(
                True,
                "Python's `venv` module is missing or incomplete: on Debian and Ubuntu, "
                f"sudo apt install python{version}-venv",
            )
        )
    if machine.bits != 64:
        found.append(Problem(True, f"this Python has {machine.bits} bits: install a 64-bit one"))
    return found


def _platform(machine: Machine) -> list[Problem]:
    if machine.system == "Windows":
        return [Problem(True, "Windows is not supported: run this inside WSL 2")]
    if machine.system == "Darwin":
        if machine.cpu != "arm64":
            return [Problem(True, "Ray and torch have no builds for Intel Macs: use Linux or Apple silicon")]
        if machine.release is not None and machine.release < MACOS:
            return [Problem(True, f"torch needs macOS {MACOS[0]} or later: update macOS")]
        return []
    if machine.system == "Linux" and machine.cpu in ("x86_64", "aarch64"):
        if machine.release is None or machine.release < GLIBC:
            advice = "use Debian 10, Ubuntu 20.04, RHEL 8 or later (Alpine has another C library)"
            return [Problem(True, f"torch needs glibc {_dotted(GLIBC)} or later: {advice}")]
        return []
    return [Problem(False, f"untried on {machine.system} {machine.cpu}: pip may find no wheels")]


def _room(machine: Machine) -> list[Problem]:
    found = []
    if machine.disk_free is not None:
        free = f"{_gib(machine.disk_free)} of disk free"
        if machine.disk_free < DISK:
            found.append(
                Problem(True, f"{free}, about {_gib(DISK)} are needed: make room, or clone to another disk")
            )
        elif machine.system == "Linux" and not machine.cpu_wheels and machine.disk_free < DISK_CUDA:
            advice = "make install TORCH_INDEX=<an index of CPU wheels> takes less"
            found.append(
                Problem(False, f"{free}, and torch's CUDA build may need {_gib(DISK_CUDA)}: {advice}")
            )
    if machine.memory is not None and machine.memory < MEMORY:
        advice = "close other programs, add swap, or give the container more"
        found.append(
            Problem(False, f"{_gib(machine.memory)} of memory, {_gib(MEMORY)} are needed to run: {advice}")
        )
    if machine.shared_memory_free is not None and machine.shared_memory_free < SHARED_MEMORY:
        advice = "in Docker use --shm-size=2g, elsewhere sudo mount -o remount,size=2G /dev/shm"
        found.append(
            Problem(
                False,
                f"{_gib(machine.shared_memory_free)} free in /dev/shm, Ray will be slow below "
                f"{_gib(SHARED_MEMORY)}: {advice}",
            )
        )
    return found


def look(venv: Path, cpu_wheels: bool = False) -> Machine:
    """Measure this machine. `venv` is where the environment will be; it need not exist yet."""
    return Machine(
        python=tuple(sys.version_info[:3]),
        other_pythons=tuple(name for name in ("python3.11", "python3.12") if shutil.which(name)),
        has_venv=all(importlib.util.find_spec(name) is not None for name in ("venv", "ensurepip")),
        bits=64 if sys.maxsize > 2**32 else 32,
        system=platform.system(),
        cpu=platform.machine(),
        release=_release(),
        disk_free=shutil.disk_usage(_existing(venv)).free,
        memory=_memory(),
        shared_memory_free=_free(Path("/dev/shm")),
        cpu_wheels=cpu_wheels,
    )


def _release() -> tuple[int, ...] | None:
    if platform.system() == "Darwin":
        return _numbers(platform.mac_ver()[0])
    name, version = platform.libc_ver()
    return _numbers(version) if name == "glibc" else None


def _memory() -> int | None:
    """What the machine has, or what its container may use if that is less."""
    if not hasattr(os, "sysconf"):
        return None
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    # Of control groups version 2 and 1; "max" is no limit.
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def _free(directory: Path) -> int | None:
    return shutil.disk_usage(directory).free if directory.is_dir() else None


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _numbers(version: str) -> tuple[int, ...] | None:
    return tuple(int(n) for n in version.split(".")[:2] if n.isdigit()) or None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GB" if size < 10 * GIB else f"{size / GIB:.0f} GB"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="where the environment will be")
    parser.add_argument("--cpu-wheels", action="store_true", help="torch comes from an index of CPU wheels")
    arguments = parser.parse_args()
    found = problems(look(arguments.venv, arguments.cpu_wheels))
    for problem in found:
        print(f"preflight: {'error' if problem.fatal else 'warning'}: {problem.text}", file=sys.stderr)
    return 1 if any(problem.fatal for problem in found) else 0


if __name__ == "__main__":
    sys.exit(main())
