"""What the import of pymilvus would do to a process, and to its children."""

from __future__ import annotations

import os
import subprocess
import sys

CALLS = """
import socket, subprocess, threading
from pipelines.core.stores.pymilvus_names import grpc

with socket.create_server(("127.0.0.1", 0)) as silent:
    channel = grpc.insecure_channel(f"127.0.0.1:{silent.getsockname()[1]}")
    call = channel.unary_unary("/a/b").future(b"", timeout=60, wait_for_ready=True)
    for _ in range(20):
        subprocess.run(["true"], preexec_fn=lambda: None, check=True)
    call.cancel()
"""


def test_grpc_does_nothing_in_a_child_that_becomes_another_program() -> None:
    """As Ray starts its processes; where a call is under way, gRPC's own handlers abort some of them."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    done = subprocess.run(
        [sys.executable, "-c", CALLS], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
