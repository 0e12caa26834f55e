"""Preflight stops only what cannot work, and says what to do in one line."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "preflight.py"
_spec = importlib.util.spec_from_file_location("preflight", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
preflight = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(preflight)

GIB = preflight.GIB
GOOD = preflight.Machine(
    python=(3, 11, 7),
    other_pythons=(),
    has_venv=True,
    bits=64,
    system="Linux",
    cpu="x86_64",
    release=(2, 36),
    disk_free=50 * GIB,
    memory=16 * GIB,
    shared_memory_free=8 * GIB,
)
MAC = GOOD._replace(system="Darwin", cpu="arm64", release=(14, 5), shared_memory_free=None)


@pytest.mark.parametrize(
    "machine",
    [
        GOOD,
        MAC,
        GOOD._replace(python=(3, 12, 1)),
        GOOD._replace(cpu="aarch64", release=(2, 28)),
        GOOD._replace(disk_free=6 * GIB, cpu_wheels=True),
        GOOD._replace(disk_free=None, memory=None, shared_memory_free=None),
    ],
)
def test_a_good_machine_has_no_problems(machine):
    assert preflight.problems(machine) == []


@pytest.mark.parametrize(
    ("machine", "advice"),
    [
        (GOOD._replace(python=(3, 10, 2)), "make install PYTHON=python3.11"),
        (GOOD._replace(python=(3, 13, 0), other_pythons=("python3.12",)), "make install PYTHON=python3.12"),
        (GOOD._replace(has_venv=False), "apt install python3.11-venv"),
        (GOOD._replace(bits=32), "64-bit"),
        (GOOD._replace(system="Windows", release=None), "WSL 2"),
        (GOOD._replace(release=None), "glibc 2.28"),
        (GOOD._replace(release=(2, 17)), "glibc 2.28"),
        (MAC._replace(cpu="x86_64"), "Apple silicon"),
        (MAC._replace(release=(13, 6)), "update macOS"),
        (GOOD._replace(disk_free=4 * GIB), "make room"),
    ],
)
def test_what_cannot_work_is_an_error_with_advice(machine, advice):
    (problem,) = preflight.problems(machine)
    assert problem.fatal
    assert advice in problem.text
    assert "\n" not in problem.text


@pytest.mark.parametrize(
    ("machine", "advice"),
    [
        (GOOD._replace(disk_free=8 * GIB), "TORCH_INDEX"),
        (GOOD._replace(memory=2 * GIB), "2.0 GB of memory"),
        (GOOD._replace(shared_memory_free=64 << 20), "--shm-size"),
        (GOOD._replace(cpu="riscv64"), "untried on Linux riscv64"),
    ],
)
def test_what_may_work_is_a_warning_with_advice(machine, advice):
    (problem,) = preflight.problems(machine)
    assert not problem.fatal
    assert advice in problem.text


def test_errors_stand_before_warnings():
    found = preflight.problems(GOOD._replace(memory=GIB, disk_free=GIB))
    assert [problem.fatal for problem in found] == [True, False]


def test_looking_at_this_machine_finds_this_python_and_the_disk_of_a_directory_yet_to_be(tmp_path):
    machine = preflight.look(tmp_path / "not" / "yet")
    assert machine.python == sys.version_info[:3]
    assert machine.disk_free > 0
    assert machine.memory > 0


def test_the_exit_status_is_one_exactly_when_there_is_an_error():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True)
    assert done.returncode == ("error:" in done.stderr)
    assert done.stdout == ""


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", "docs/tutorial.md"])
def test_pages_ask_for_as_much_disk_as_it_does(page: str) -> None:
    plain, cuda = (size // GIB for size in (preflight.DISK, preflight.DISK_CUDA))
    text = (SCRIPT.parents[1] / page).read_text("utf-8")
    assert re.search(
        rf"\b{plain} GB of free disk, on\sLinux {cuda} unless|磁盘 {plain} GB，在 Linux 上则需 {cuda} GB",
        text,
    )
