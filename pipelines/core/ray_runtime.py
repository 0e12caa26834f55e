"""The Ray that a job runs on: the caller's, a running cluster, or one of this machine while it takes.

Only the job modules import it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import ray

from pipelines.core.errors import UsageError

_LOG = logging.getLogger(__name__)
# Read by Ray as it starts on this machine; what the caller's environment says goes first.
_STARTING = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its own log lines are not for users
    "RAY_gcs_server_port_wait_time_s": "120",  # 30 are too few where every core is busy
    "GRPC_ENABLE_FORK_SUPPORT": "0",  # why so: stores/pymilvus_names.py; Ray imports gRPC, too
    # Our deployments block no event loop: they need no second one.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # A request whose gateway is lost goes to another.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "pipelines.serve.proxy:middlewares",
    # Of what workers report one is taken a time: with the default of 2 s a short run waits for it at its end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a lost proxy is back after seconds
}
_METRICS_PORT = "RAY_METRICS_EXPORT_PORT"  # what `ray start` has --metrics-export-port for
_ATTEMPTS = 2


def starts_here(address: str = "") -> bool:
    """Whether `ray_runtime` would start a Ray of this machine, rather than join one or use the caller's."""
    return not (ray.is_initialized() or address or os.environ.get("RAY_ADDRESS"))


@contextmanager
def ray_runtime(
    address: str = "", cpus: int = 0, waits_for: Mapping[str, int] = MappingProxyType({})
) -> Iterator[None]:
    """A Ray runtime, ended with the context unless it was there before.

    `address` (or else RAY_ADDRESS) names a running cluster. Without one a Ray is started here that counts at
    least `cpus` CPUs, however many there are: what waits for disks needs no core. Its metrics are at port
    RAY_METRICS_EXPORT_PORT, or where that is not set at any. `waits_for`: the resources without which the
    job does not begin, such as {"CPU": 2, "GPU": 1}; what a running cluster, which may grow, has not free of
    them is said. Raises UsageError for a port that is taken, for a cluster that does not let this process
    join, and for GPUs that this machine has not.
    """
    if ray.is_initialized():
        say_what_is_awaited(waits_for)
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS", "")
    for name, value in _STARTING.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    with _own_sigterm():
        if address:
            _join(address, **quiet)
        else:
            _start(
                num_cpus=max(cpus, waits_for.get("CPU", 0), os.cpu_count() or 1),
                include_dashboard=False,
                _metrics_export_port=_metrics_port(),
                **quiet,
            )
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if address:
            say_what_is_awaited(waits_for)
        elif waits_for and (lacking := _lacking(waits_for, ray.cluster_resources())):
            raise UsageError(f"this machine has too little: {lacking}")
        yield
    finally:
        ray.shutdown()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's start takes SIGTERM twice: a handler in Python raises SystemExit, and one for crashes beneath it
    prints a stack and aborts the process three seconds later. The second goes, and both where we had one."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        kept = ours if callable(ours) else signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
        signal.signal(signal.SIGTERM, kept)


def _lacking(wanted: Mapping[str, int], there: Mapping[str, float]) -> str:
    return " and ".join(
        f"{there.get(name, 0):g} of {count} {name}s"
        for name, count in wanted.items()
        if there.get(name, 0) < count
    )


def say_what_is_awaited(wanted: Mapping[str, int]) -> None:
    """What the cluster has not free now of these resources: it may grow, or what holds them may end."""
    if wanted and (lacking := _lacking(wanted, ray.available_resources())):
        print(f"Ray's cluster has {lacking} free; waiting for the rest", file=sys.stderr)


def _join(address: str, **options: Any) -> None:
    try:
        context = ray.init(address=address, **options)
    except ConnectionError as exc:
        refused = "AuthenticationError" in repr(exc.__cause__)
        why = (
            "it asks for another token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to that of its nodes"
            if refused
            else "is it up, and does this machine reach it?"
        )
        raise UsageError(f"the Ray cluster at {address} cannot be joined; {why}") from exc
    if context.dashboard_url:
        print(f"Ray's dashboard: http://{context.dashboard_url}", file=sys.stderr)


def _metrics_port() -> int | None:
    """Ray itself would wait a minute for a port that is taken, and not say why."""
    wanted = os.environ.get(_METRICS_PORT)
    if not wanted:
        return None
    try:
        socket.create_server(("", int(wanted))).close()
    except (OSError, ValueError, OverflowError) as exc:
        raise UsageError(f"{_METRICS_PORT}={wanted}: {exc}; name a free port, or none") from exc
    return int(wanted)


def _start(**options: Any) -> None:
    """Ray waits half a minute for its own processes, by a limit that is not ours to set: on a machine that
    was busy then, the next attempt succeeds."""
    # No cloud takes this machine back: a training needs no process that watches for it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init("local", **options)
            return
        except Exception as exc:  # Ray raises no narrower one
            if "timed out" not in str(exc).lower() or attempt == _ATTEMPTS:
                raise
            _LOG.warning("Ray did not start in time, trying once more: %s", str(exc).splitlines()[0])
            ray.shutdown()
