"""The Ray that an ingest runs on: joined or started, how often it tries again, and its errors in our words.

Knows no stage and no store. Only `job.py` imports it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
import ray.data
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from pipelines.core.errors import MmragError
from pipelines.core.ray_runtime import ray_runtime
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.in_hand import InHand

_TRIES_AGAIN: Final = 12
"""Of one task, after its process or its node was lost; Ray Data would go on for ever. An item that kills its
readers is refused long before (`in_hand`), and some others of the same task after it."""
TASK: Final[dict[str, Any]] = {"max_retries": _TRIES_AGAIN}
ACTOR: Final[dict[str, Any]] = {"max_task_retries": _TRIES_AGAIN}
# Ray, whose version is pinned, says so of these two at every ingest, and has no other parameter for them yet.
warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")

_LOST = (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
_FAILED_TO_START = "creation task"  # an error of code, not of a machine
_AGAIN = "run the same command again: it goes on where this one stopped"
_ADDED_BY_RAY = "\nFailed to apply UDF"


@contextmanager
def cluster(config: IngestConfig) -> Iterator[int]:
    """A connection to the configured cluster, or a Ray of this machine that ends with the job.

    Gives the threads of an encoder for each CPU that it takes: with half of Ray's CPUs they are as many as
    there are cores.
    """
    joins = bool(config.ray_address or os.environ.get("RAY_ADDRESS"))
    counts_twice = not (joins or ray.is_initialized())
    # Ray reads Parquet footers with 32 processes of 100 MB, on a laptop and for one file too.
    if not joins:
        os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    # What Ray kills for its memory is counted apart, and without a bound.
    os.environ.setdefault("RAY_task_oom_retries", str(_TRIES_AGAIN))
    # Twice the cores: one for each thread of an encoder, and as many again for the rest.
    with ray_runtime(config.ray_address, cpus=2 * (os.cpu_count() or 1)), in_our_words():
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.raise_original_map_exception = True  # else all but its text is lost
        yield 1 if counts_twice else 2


def node_cpus() -> list[int]:
    """Of each node that is there, as Ray counts them."""
    return [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]


@contextmanager
def in_our_words(doing: str = "", in_hand: InHand | None = None) -> Iterator[None]:
    """Raises `own_error` of a Ray error."""
    try:
        yield
    except RayError as exc:
        own = own_error(exc, doing, in_hand)
        if own is exc:
            raise
        raise own from exc


def own_error(exc: BaseException, doing: str = "", in_hand: InHand | None = None) -> BaseException:
    """The MmragError or OSError that a Ray error wraps, at whatever depth; one for a part of the job that was
    lost while `doing` this; else the error itself."""
    lost = ""
    seen: BaseException | None = exc
    while seen is not None:
        # The error of a task is of its cause's class, too.
        if isinstance(seen, MmragError) and not isinstance(seen, RayError):
            return type(seen)(str(seen).split(_ADDED_BY_RAY)[0])
        if isinstance(seen, OSError) and not isinstance(seen, RayError):
            # Ray Data writes its own words where the file's name was.
            named = isinstance(seen.filename, str) and not seen.filename.startswith(_ADDED_BY_RAY.strip())
            return seen if named else OSError(seen.errno, seen.strerror)
        if isinstance(seen, OutOfDiskError):
            return MmragError(
                f"Ray has no room for its own files: make some in /tmp/ray or RAY_TMPDIR; {_AGAIN}"
            )
        if isinstance(seen, _LOST) and _FAILED_TO_START not in str(seen):
            lost = type(seen).__name__
        seen = getattr(seen, "cause", None) or seen.__cause__
    if not lost:
        return exc
    words = f"Ray lost a process or a node of this job ({lost}){doing and f' while {doing}'}; {_AGAIN}"
    if suspects := in_hand.suspects() if in_hand else []:
        words += f". More than one process died over {', '.join(suspects)}: leave it out if it is damaged"
    return MmragError(words)
