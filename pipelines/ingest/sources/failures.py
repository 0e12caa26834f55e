"""Failures of reading: which come of storage, a network or a login, and not of what is in a file."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from pyarrow import ArrowException

from pipelines.core.errors import BadPart, NotAllowed
from pipelines.ingest.sources.records import AWAY, FORBIDDEN, MAY_RETURN, UNAVAILABLE, Item, Rejected

UNREADABLE: Final = (OSError, ArrowException, NotImplementedError)
"""What Python and pyarrow raise where a file cannot be read."""
_OF_JAVA: Final = 255  # libhdfs gives it to what it knows no errno of, a lost connection among them
_PASSING: Final = {
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, _OF_JAVA),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH),
}
# pyarrow tells no errno of S3's errors, but their kind, and where S3 names none the HTTP status.
_S3_PASSING: Final = re.compile(
    r"AWS Error (?:NETWORK_CONNECTION|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING"
    r"|INTERNAL_FAILURE|UNKNOWN \(HTTP status (?:429|5\d\d)\)) during "
)
# What a store itself answers, be it that a login has expired, says nothing of an object unless it has none.
_OF_STORE: Final = re.compile(
    r"AWS Error (?!NO_SUCH_KEY|RESOURCE_NOT_FOUND|UNKNOWN \(HTTP status 4(?:04|16)\))"
    r"|google::cloud::Status\((?!NOT_FOUND|OUT_OF_RANGE)"
    r"|Azure Error: \[(?!BlobNotFound|PathNotFound|ResourceNotFound)"
    r"|\bHDFS\b.* failed"
)
# One that may not be read, be it for good: S3 says so of what is missing, too, to those who may not list.
_DENIED: Final = re.compile(
    r"AWS Error (?:ACCESS_DENIED|UNKNOWN \(HTTP status 403\))"
    r"|google::cloud::Status\(PERMISSION_DENIED|Azure Error: \[Authorization"
)
_WAITS_S: Final = (0.5, 2.0, 8.0)

T = TypeVar("T")
log = logging.getLogger(__name__)


def passes(exc: BaseException) -> bool:
    """Whether this comes of storage, a network or a login, and not of what is in a file."""
    return any(_passes_soon(seen) or _is_of_store(seen) for seen in _causes(exc))


def _causes(exc: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = exc
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _passes_soon(exc: BaseException) -> bool:
    if isinstance(exc, TimeoutError | ConnectionError):
        return True
    return isinstance(exc, OSError) and (exc.errno in _PASSING or bool(_S3_PASSING.search(str(exc))))


def _is_of_store(exc: BaseException) -> bool:
    if isinstance(exc, FileNotFoundError) or not isinstance(exc, UNREADABLE):
        return False
    return _OF_STORE.search(str(exc)) is not None


def _is_away(exc: BaseException) -> bool:
    """Whether it tells of what may not be read in a store, or of a file here whose whole folder is missing,
    or holds nothing, as that of a disk that is not mounted."""
    for seen in _causes(exc):
        if _is_denied(seen):
            return True
        if isinstance(seen, FileNotFoundError) and seen.filename:
            try:
                with os.scandir(os.path.dirname(seen.filename)) as entries:  # noqa: PTH120
                    return all(entry.name.startswith(".") for entry in entries)
            except OSError:
                return True
    return False


def _is_denied(exc: BaseException) -> bool:
    of_hdfs = isinstance(exc, PermissionError) and _is_of_store(exc)
    return of_hdfs or (isinstance(exc, UNREADABLE) and _DENIED.search(str(exc)) is not None)


def stage_of(exc: BadPart, stage: str) -> str:
    """`stage`, in which reading failed, or FORBIDDEN, AWAY, or UNAVAILABLE where that passes."""
    if isinstance(exc, NotAllowed):
        return FORBIDDEN
    if _is_away(exc):
        return AWAY
    return UNAVAILABLE if passes(exc) else stage


def rejected_picture(item: Item, exc: BadPart, source: str, address: str) -> Rejected:
    """Of a document that names a picture at `address`, "" where that is none, what is told of it."""
    stage = stage_of(exc, "parse")
    return Rejected(item.document_id, source, stage, str(exc), picture=address if stage in MAY_RETURN else "")


def retried(read: Callable[[], T]) -> T:
    """What `read` returns, which is called again, after some seconds, while its BadPart passes so soon."""
    for wait_s in _WAITS_S:
        try:
            return read()
        except BadPart as exc:
            if not any(map(_passes_soon, _causes(exc))):
                raise
            log.warning("trying again in %g s: %s", wait_s, exc)
        time.sleep(wait_s)
    return read()
