"""The program that CI fetches is the one that was looked at."""

from __future__ import annotations

import hashlib
import io
import runpy
import tarfile
from pathlib import Path

import pytest

FETCH = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "kustomize.py"))


@pytest.fixture
def package() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        content = b"#!/bin/sh\necho rendered\n"
        member = tarfile.TarInfo(FETCH["MEMBER"])
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def test_it_is_made_a_program(package, tmp_path):
    there = FETCH["unpack"](package, tmp_path / "bin", hashlib.sha512(package).hexdigest())
    assert there == tmp_path / "bin" / "kustomize"
    assert there.stat().st_mode & 0o111 == 0o111
    assert [*there.parent.iterdir()] == [there]


def test_other_bytes_are_refused(package, tmp_path):
    with pytest.raises(ValueError, match="other bytes"):
        FETCH["unpack"](package, tmp_path / "bin")
    assert not (tmp_path / "bin").exists()
