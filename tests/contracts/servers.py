"""Real servers for tests, each a child process on a free loopback port with a directory of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from benchmarks.processes import below

_MILVUS_ROLES = (
    "proxy",
    "rootCoord",
    "queryCoord",
    "queryNode",
    "indexCoord",
    "indexNode",
    "dataCoord",
    "dataNode",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def milvus_server(directory: Path, session_s: int = 60, *, killed: bool = False) -> Iterator[str]:
    """Milvus 2.3.5 standalone with what `directory` holds; its URI. `killed`: it ends by SIGKILL.

    One at a time on a machine: its etcd port is fixed. It ends itself where the machine stalls for
    `session_s`, and after a SIGKILL starts again only some four times `session_s` later.
    """
    pytest.importorskip("milvus", reason="Milvus 2.3.5 has no wheel for this machine")
    from milvus import MilvusServer, MilvusServerConfig
    from pymilvus import MilvusClient

    with FileLock(Path(tempfile.gettempdir()) / "mmrag-tests-milvus.lock", timeout=240):
        config = MilvusServerConfig(data_dir=str(directory), proxy_port=free_port())
        for role in _MILVUS_ROLES:
            config.set(f"{role}.ip", "127.0.0.1")
        config.set("common.session.ttl", session_s)
        server = MilvusServer(config)
        server.start()
        uri = f"http://127.0.0.1:{server.listen_port}"
        try:
            yield uri
        finally:
            if killed:
                server.server_proc.kill()
                server.server_proc.wait()
            else:
                # A loaded collection keeps the query node from stopping for minutes.
                with closing(MilvusClient(uri, timeout=10)) as client:
                    for name in client.list_collections():
                        client.release_collection(name)
                server.stop()


@contextmanager
def elastic_server(directory: Path, port: int = 0) -> Iterator[str]:
    """A server that speaks Elasticsearch's protocol, with what `directory` holds; its URL. `port`: 0 for any
    free one. It is no measure of speed or durability."""
    port = port or free_port()
    program = Path(sysconfig.get_path("scripts")) / "noida-db"
    if not program.exists():
        pytest.skip("noida-db has no wheel for this machine")
    command = [str(program), "start", "--data-dir", str(directory), "--only", "elasticsearch"]
    log = (directory / "server.log").open("wb")
    server = subprocess.Popen(
        [*command, "--elasticsearch-port", str(port)],
        stdout=log,
        stderr=log,
        cwd=directory,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        # The program is a wrapper that does not pass a signal on, and ends while the server still answers.
        started = below(server.pid)
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
        _, left = psutil.wait_procs(started, timeout=30)
        log.close()
        assert not left, "it did not end"


def python(*arguments: str, start_new_session: bool = False) -> subprocess.Popen[str]:
    """A Python process with pipes of text; its input ends when it is closed or communicated with."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=start_new_session,
    )


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"{url}: the server ended with status {server.returncode}") from None
            time.sleep(0.05)
    raise RuntimeError(f"{url}: nothing answers")
