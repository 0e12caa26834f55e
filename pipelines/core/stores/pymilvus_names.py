"""The names of pymilvus that we use. Its import configures the process's logging, which closes every handler
that there is, Ray Serve's files among them: here it is kept from that."""

from __future__ import annotations

import logging.config

_configure = logging.config.dictConfig
logging.config.dictConfig = lambda config: None
try:
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
]
