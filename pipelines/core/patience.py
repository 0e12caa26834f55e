"""Wait for what stopped answering, a store or a model: what it is asked may be repeated. Knows no Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from pipelines.core.errors import MmragError, StoreUnavailable

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 5.0


def patiently(
    call: Callable[[], T], patience_s: float, unavailable: type[MmragError] = StoreUnavailable
) -> T:
    """The result of `call`, which is made again, after waits that double up to 5 s, while it raises
    `unavailable`: that passes once `patience_s` seconds are over since it was first raised.

    A call is one request or one batch: what it had done is done again, and what answered ends the outage.
    """
    down_since, wait_s = None, _FIRST_WAIT_S
    while True:
        try:
            return call()
        except unavailable as exc:
            now = time.monotonic()
            down_since = now if down_since is None else down_since
            if now - down_since + wait_s > patience_s:
                raise
            _LOG.warning("trying again in %g s: %s", wait_s, exc)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
