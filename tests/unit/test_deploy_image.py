"""deploy/Dockerfile: clean to hadolint, without root or secrets, of locked versions."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Dockerfile"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's (instruction, rest) pairs, continued lines joined."""
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole)]


def test_hadolint_finds_nothing():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bases_are_pinned_by_tag_or_are_stages():
    stages: set[str] = set()
    for name, rest in instructions():
        if name != "FROM":
            continue
        base, _, stage = rest.partition(" AS ")
        assert (
            base in stages
            or base in ("python-${VARIANT}", "packages-${VARIANT}")
            or re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base)
        )
        stages.add(stage)
    assert {f"{stage}-{variant}" for stage in ("python", "packages") for variant in ("cpu", "gpu")} <= stages


def test_it_ends_as_a_user_who_is_not_root_with_a_health_check():
    last = max(position for position, (name, _) in enumerate(instructions()) if name == "FROM")
    final = dict(instructions()[last:])
    assert final["USER"].partition(":")[0] not in ("0", "root")
    assert "/healthz" in final["HEALTHCHECK"]
    assert final["ENTRYPOINT"] == '["mmrag"]'


def test_the_extras_that_it_names_exist():
    text = FILE.read_text()
    extras = {extra for found in re.findall(r"'\.\[([\w,]+)\]'", text) for extra in found.split(",")}
    assert {"hub", "ocr", "train", "gpu"} <= extras <= set(PROJECT["optional-dependencies"])


def test_no_secret_is_in_it():
    assert not re.search(r"(?i)(token|password|secret|api_key)\s*=", FILE.read_text())


def test_each_image_takes_its_packages_from_its_own_lock():
    installed = [rest for name, rest in instructions() if name == "RUN" and ".[" in rest]
    for variant, command in zip(("cpu", "gpu"), installed, strict=True):
        assert f"-c requirements/constraints-{variant}.txt '.[" in command


def test_each_image_has_the_python_that_its_lock_is_resolved_for():
    makefile = (ROOT / "Makefile").read_text()
    locked = re.findall(r"^COMPILE-(\w+) = .*--python-version (\S+)", makefile, re.MULTILINE)
    found = re.findall(r"^FROM python:(\d\.\d+)-\S+ AS python-(\w+)$", FILE.read_text(), re.MULTILINE)
    assert [variant for _, variant in found] == ["cpu", "gpu"]
    assert [(variant, python) for python, variant in found] == locked


def test_opencv_needs_no_display():
    """OCR brings it; the other build wants libraries of a desktop, which the image does not have."""
    for variant in ("cpu", "gpu"):
        lock = (ROOT / "requirements" / f"constraints-{variant}.txt").read_text()
        assert set(re.findall(r"^(opencv[\w-]*)==", lock, re.MULTILINE)) == {"opencv-python-headless"}


def test_only_what_is_copied_reaches_the_builder():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    assert "*" in ignored
    copied = [word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / path).exists() for path in copied)
    assert all(any(path == one or path.startswith(f"{one}/") for one in let_in) for path in copied)
