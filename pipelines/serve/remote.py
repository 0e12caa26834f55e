"""Pictures that a request names by URL: fetched from public addresses only, or refused. Decodes nothing.

A name is resolved here, every address that it has is checked, and the connection goes to a checked address:
what the name says a moment later does not matter. Redirects are followed by hand, each checked anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import httpx

from pipelines.core.errors import UsageError
from pipelines.serve.pictures import too_large

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

MAX_REDIRECTS: Final = 3
_PORTS: Final = {"http": 80, "https": 443}
_UNREACHABLE: Final = "the picture's URL cannot be read from here: send the picture as a data URI"
# They carry an IPv4 address that the network may deliver to: NAT64, Teredo, 6to4.
_CARRIERS: Final = tuple(
    ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)


def is_public(address: str) -> bool:
    """Whether it is an address of the public internet: not private, loopback, link-local, multicast, reserved
    or shared (carrier NAT), nor an IPv6 address that stands for an IPv4 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped or parsed.scope_id or any(parsed in network for network in _CARRIERS):
            return False
        if parsed.is_site_local:
            return False
    return parsed.is_global and not (
        parsed.is_private
        or parsed.is_loopback
        or parsed.is_link_local
        or parsed.is_multicast
        or parsed.is_reserved
        or parsed.is_unspecified
    )


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host's name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class RemotePictures:
    """`transport` makes connections; None: httpx's own."""

    def __init__(
        self,
        timeout_s: float,
        max_bytes: int,
        resolve: Resolve = resolve,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout_s, self._max_bytes, self._resolve = timeout_s, max_bytes, resolve
        self._transport = transport
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def fetch(self, url: str) -> bytes:
        """The bytes at the URL. Raises UsageError and TooLarge."""
        try:
            async with asyncio.timeout(self._timeout_s), self._client() as client:
                target = _checked(httpx.URL(url))
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._get(client, target)
                    if isinstance(found, bytes):
                        return found
                    target = _checked(found)
        except TimeoutError as exc:
            raise UsageError(f"the picture's URL did not answer within {self._timeout_s:g} s") from exc
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, ValueError) as exc:
            if isinstance(exc, UsageError):
                raise
            raise UsageError(_UNREACHABLE) from exc
        raise UsageError(f"the picture's URL redirects more than {MAX_REDIRECTS} times")

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=self._transport,
            verify=self._tls,
            trust_env=False,  # no proxy: it would resolve the name again
            follow_redirects=False,
            timeout=self._timeout_s,
        )

    async def _get(self, client: httpx.AsyncClient, url: httpx.URL) -> bytes | httpx.URL:
        """The body, or where a redirect leads."""
        port = url.port or _PORTS[url.scheme]
        addresses = await self._resolve(url.host, port)
        if not addresses or not all(is_public(address) for address in addresses):
            raise UsageError(_UNREACHABLE)
        request = client.build_request(
            "GET",
            url.copy_with(host=addresses[0], fragment=None),
            headers={"Host": url.netloc.decode(), "Accept": "image/*", "Accept-Encoding": "identity"},
            extensions={"sni_hostname": url.raw_host.decode()},
        )
        response = await client.send(request, stream=True)
        try:
            if response.has_redirect_location:
                return url.join(response.headers["Location"])
            if response.status_code != httpx.codes.OK:
                raise UsageError(f"the picture's URL answers with status {response.status_code}")
            return await self._body(response)
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UsageError(_UNREACHABLE)
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:20]) > self._max_bytes:
            raise too_large(self._max_bytes)
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > self._max_bytes:
                raise too_large(self._max_bytes)
        return bytes(body)


def _checked(url: httpx.URL) -> httpx.URL:
    if url.scheme not in _PORTS or not url.host:
        raise UsageError("the picture's URL must begin with http:// or https://")
    if url.userinfo:
        raise UsageError("the picture's URL must not hold a name or password")
    return url
