"""Wait for a store that stopped answering: what goes to it may be repeated. Knows no store and no Ray."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from pipelines.core.errors import StoreUnavailable

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 5.0


def patiently(call: Callable[[], T], patience_s: float) -> T:
    """The result of `call`, which is made again, after waits that double up to 5 s, while a store does not
    answer. Raises StoreUnavailable once one has not answered for `patience_s` seconds."""
    begun, wait_s = time.monotonic(), _FIRST_WAIT_S
    while True:
        try:
            return call()
        except StoreUnavailable as exc:
            if time.monotonic() - begun + wait_s > patience_s:
                raise
            _LOG.warning("trying again in %g s: %s", wait_s, exc)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
