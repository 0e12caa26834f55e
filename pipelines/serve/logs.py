"""Log lines as fields: one of each call of a deployment, with the id of the request that it is a part of.

Ray Serve knows the request's id in every replica, and its handlers write it, the deployment and the replica
into each line of its own files; here our lines are given to them. Nothing that a caller said is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OURS = logging.getLogger("pipelines")
_SERVES = logging.getLogger("ray.serve")


def join_serve(level: str) -> None:
    """Have this replica's lines of `level` and above written by Ray Serve's handlers."""
    _OURS.handlers = list(_SERVES.handlers)
    _OURS.setLevel(level)
    _OURS.propagate = False


def line(log: logging.Logger, what: str, **fields: Any) -> None:
    """An INFO line: `what name=value ...` as text, the fields by themselves in JSON."""
    if log.isEnabledFor(logging.INFO):
        told = " ".join([what, *(f"{name}={value}" for name, value in fields.items())])
        log.info("%s", told, extra=fields)


@contextmanager
def timed(log: logging.Logger, call: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """A line when the block ends, however it ends; it may add fields to what this yields."""
    start = time.perf_counter()
    try:
        yield fields
    except BaseException as exc:
        fields["error"] = type(exc).__name__
        raise
    finally:
        ms = round((time.perf_counter() - start) * 1000, 1)
        line(log, call, call=call, ms=ms, **fields)
