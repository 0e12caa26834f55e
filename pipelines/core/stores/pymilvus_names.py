"""The names of pymilvus and of its gRPC that we use.

Its import configures the process's logging, which closes every handler that there is, Ray Serve's files among
them: here it is kept from that. And gRPC's handlers of a fork run in every child before that becomes another
program: where a call is under way some abort there, of Ray's own processes that are started then, too. No
process forks here to stay what it is, so they are left out; gRPC reads that as it is imported.
"""

from __future__ import annotations

import logging.config
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
_configure = logging.config.dictConfig
logging.config.dictConfig = lambda config: None
try:
    import grpc  # type: ignore[import-untyped]
    from pymilvus import DataType, MilvusClient, MilvusException
    from pymilvus.client.types import LoadState
    from pymilvus.exceptions import ErrorCode, MilvusUnavailableException
finally:
    logging.config.dictConfig = _configure

__all__ = [
    "DataType",
    "ErrorCode",
    "LoadState",
    "MilvusClient",
    "MilvusException",
    "MilvusUnavailableException",
    "grpc",
]
