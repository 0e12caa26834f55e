"""What an error of Milvus means for us: it is down, it is not ready yet, or it refuses. Knows no collection.

The codes are those of Milvus's pkg/util/merr, which also marks what may be sent again (`retriable`), as far
as a server passes the mark on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.stores.pymilvus_names import (
    ErrorCode,
    MilvusException,
    MilvusUnavailableException,
    grpc,
)

_CONNECT_FAILED: Final = 2  # pymilvus.client.types.Status.CONNECT_FAILED
# A channel is being subscribed to, or moves to another node.
_CHANNEL_LACKS, _CHANNEL_NOT_AVAILABLE = 501, 503
_DOWN: Final = {
    *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED),
    *(_CONNECT_FAILED, _CHANNEL_LACKS, _CHANNEL_NOT_AVAILABLE),
}
_NOT_FULLY_LOADED, _ON_RECOVERING = 103, 106
# With the two of `ErrorCode`: too many requests for now, or none to write until memory, disk or lagging nodes
# are below their quota.
_PASSING: Final = {ErrorCode.RATE_LIMIT, ErrorCode.FORCE_DENY, _NOT_FULLY_LOADED, _ON_RECOVERING}
# common_pb2.NotReadyServe, an old code: the new one, 1, is also that of all that pymilvus itself refuses.
_NOT_READY: Final = 56


@contextmanager
def translated(uri: str, doing: str) -> Iterator[None]:
    """Raises StoreUnavailable for what passes by waiting, and StoreError for any other error of Milvus's."""
    try:
        yield
    except (MilvusException, grpc.RpcError) as exc:
        code = exc.code() if isinstance(exc, grpc.RpcError) else exc.code
        if code in _DOWN or isinstance(exc, MilvusUnavailableException):
            raise StoreUnavailable(f"{uri}: {doing} failed; is Milvus running there?") from exc
        reason = exc.details() if isinstance(exc, grpc.RpcError) else exc.message
        if isinstance(exc, MilvusException) and _passes(exc):
            raise StoreUnavailable(f"{uri}: {doing} failed, the server is not ready: {reason}") from exc
        raise StoreError(f"{uri}: {doing} refused: {reason}") from exc


def _passes(exc: MilvusException) -> bool:
    """Whether the same request may succeed later, by what the server says."""
    return bool(exc.retriable or exc.code in _PASSING or exc.compatible_code == _NOT_READY)
