"""Who asks, by what name, how often, how many at once, and for how long. Knows no route and no question."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive

from pipelines.core.addresses import is_loopback
from pipelines.serve.config import ApiKey, ServeConfig
from pipelines.serve.faults import (
    ClientGone,
    DeadlinePassed,
    Misdirected,
    Overloaded,
    TooManyRequests,
    Unauthorized,
)

_LOOK_EVERY_S: Final = 0.05
_HOST: Final = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]*)?")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the name of its key, empty where none is wanted. `tenant` None sees those of all."""

    name: str
    tenant: str | None


EVERYONE = Caller("", None)


class Keyring:
    """The callers by key. Holds hashes of the keys only."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._callers = tuple(
            (_digest(key.key.get_secret_value().encode()), Caller(key.name, key.tenant)) for key in keys
        )

    def caller(self, authorization: bytes | None) -> Caller:
        """The owner of the key in an `Authorization` header. Raises Unauthorized.

        Every key is compared, each in constant time: how long it takes says nothing of any of them.
        """
        if not self._callers:
            return EVERYONE
        scheme, _, key = (authorization or b"").strip().partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise Unauthorized("send an API key as `Authorization: Bearer KEY`")
        digest = _digest(key.strip())
        matching = [caller for known, caller in self._callers if hmac.compare_digest(known, digest)]
        if not matching:
            raise Unauthorized("this API key is not known here")
        return matching[0]


class Hosts:
    """The names that requests may address this server by.

    A server without keys at a loopback address answers whoever reaches it. A web page from elsewhere does, in
    a browser on this machine, once its own name is made to mean 127.0.0.1 (DNS rebinding): the Host header
    tells, for it still holds that name. With keys, too, a server at such an address has loopback's own names:
    what watches it from this machine uses them.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._names = frozenset(name.lower() for name in config.allowed_hosts)
        self._loopback = is_loopback(config.host)
        self.bounded = (self._loopback and not config.api_keys) or bool(self._names)

    def check(self, header: bytes | None) -> None:
        """The Host header, with or without a port. Raises Misdirected."""
        found = _HOST.fullmatch(header or b"")
        name = found[1].decode().lower().removesuffix(".") if found else ""
        if not self.bounded or name in self._names or (self._loopback and is_loopback(name)):
            return
        own = "localhost or 127.0.0.1" if self._loopback else "its own name"
        raise Misdirected(
            f"the name in Host is not one of this server: use {own}, or add it to serve.allowed_hosts"
        )


def stands_open(config: ServeConfig) -> bool:
    """Whether others than this machine's users may ask, without a key."""
    return not config.api_keys and not is_loopback(config.host)


def access(config: ServeConfig) -> str:
    """Who may ask, in words."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"{host}:{config.port}" if config.port else host
    if config.api_keys:
        return f"{address}, for the owners of {len(config.api_keys)} API keys"
    if stands_open(config):
        return f"open: whoever reaches {address} may ask, and sees every tenant; serve.api_keys sets keys"
    return f"{address}, without API keys: whoever is on this machine may ask, and sees every tenant"


class RateLimit:
    """A token bucket for each caller, full at `per_minute`. Forgets the callers not seen for longest."""

    def __init__(
        self, per_minute: int, clock: Callable[[], float] = time.monotonic, most_callers: int = 10_000
    ) -> None:
        self._per_minute, self._clock, self._most_callers = per_minute, clock, most_callers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> None:
        """Raises TooManyRequests, which says when the next is allowed."""
        if not self._per_minute:
            return
        now = self._clock()
        tokens, then = self._buckets.pop(who, (float(self._per_minute), now))
        tokens = min(float(self._per_minute), tokens + (now - then) * self._per_minute / 60)
        self._buckets[who] = (max(tokens - 1, 0.0) if tokens >= 1 else tokens, now)
        if len(self._buckets) > self._most_callers:
            self._buckets.popitem(last=False)
        if tokens < 1:
            wait_s = (1 - tokens) * 60 / self._per_minute
            raise TooManyRequests(
                f"more than {self._per_minute} questions a minute: ask again in {max(1, round(wait_s))} s",
                wait_s,
            )


def limited_as(caller: Caller, address: str) -> str:
    """Whose bucket a request takes from: its key's, else its address's (of IPv6 the /64, one site)."""
    if caller.name:
        return f"key {caller.name}"
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed.packed, 64), strict=False))


class Admission:
    """Lets so many in at once and so many wait; who comes after those is refused, not queued."""

    def __init__(self, concurrent: int, queued: int, retry_after_s: float) -> None:
        self._free = asyncio.Semaphore(concurrent)
        self._most_waiting, self._retry_after_s = queued, retry_after_s
        self.working = self.waiting = 0
        self._closed = False

    async def close(self) -> None:
        """Nobody is let in any more. Returns when all who were have left."""
        self._closed = True
        while self.working or self.waiting:
            await asyncio.sleep(_LOOK_EVERY_S)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Raises Overloaded."""
        if self._closed:
            raise Overloaded("the server is ending: ask again soon", self._retry_after_s)
        if self._free.locked() and self.waiting >= self._most_waiting:
            raise Overloaded("the server is busy: ask again soon", self._retry_after_s)
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.working += 1
        try:
            yield
        finally:
            self.working -= 1
            self._free.release()


@asynccontextmanager
async def patience(receive: Receive, timeout_s: float, retry_after_s: float) -> AsyncIterator[None]:
    """Work that is cancelled at the deadline, and when the client goes away.

    Raises DeadlinePassed and ClientGone. The request's body must have been read.
    """
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        limit.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(timeout_s) as limit:
            watcher = asyncio.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError as exc:
        if gone:
            raise ClientGone("the client went away") from exc
        if limit.expired():
            raise DeadlinePassed(f"no answer within {timeout_s:g} s: ask again", retry_after_s) from exc
        raise


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
