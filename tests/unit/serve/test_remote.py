"""Pictures by URL: public addresses only, whatever a name or a redirect says. No test leaves this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import httpx
import pytest
from fakes import picture
from gateway_fakes import ScriptedBackend, app_of, client_of

from pipelines.core.errors import UsageError
from pipelines.serve.faults import TooLarge
from pipelines.serve.remote import RemotePictures, is_public

PUBLIC = "93.184.215.14"

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:93.184.215.14",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::1",
    "2001:0:a00:1::1",
    "2001:db8::1",
    "no address",
]


class Internet:
    """Serves `pages` by URL to whoever reaches it by an address, and notes how it was reached."""

    def __init__(self, pages: dict[str, Callable[[], httpx.Response]]) -> None:
        self.pages = pages
        self.reached: list[tuple[str, str, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        host = request.headers["Host"]
        self.reached.append((request.url.host, host, request.extensions.get("sni_hostname", "")))
        return self.pages[f"{request.url.scheme}://{host}{request.url.raw_path.decode()}"]()


def names(**known: Sequence[str]) -> Callable[..., object]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if host in known:
            return known[host]
        raise OSError("no such name")

    return resolve


def remote(internet: Internet, known: dict[str, Sequence[str]], max_bytes: int = 1000) -> RemotePictures:
    return RemotePictures(
        timeout_s=1.0,
        max_bytes=max_bytes,
        resolve=names(**known),  # type: ignore[arg-type]
        transport=httpx.MockTransport(internet),
    )


def found() -> httpx.Response:
    return httpx.Response(200, stream=httpx.ByteStream(picture()))


def redirect(to: str) -> Callable[[], httpx.Response]:
    return lambda: httpx.Response(302, headers={"Location": to})


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_the_public_internet(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700:4700::1111"])
def test_what_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.anyio
async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    internet = Internet({"https://pictures.example/a.png?size=1": found})
    fetched = await remote(internet, {"pictures.example": [PUBLIC]}).fetch(
        "https://pictures.example/a.png?size=1"
    )
    assert fetched == picture()
    assert internet.reached == [(PUBLIC, "pictures.example", "pictures.example")]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], [PUBLIC, "::1"], ["::ffff:10.0.0.1"], []]
)
async def test_a_name_with_one_private_address_is_refused(addresses: list[str]) -> None:
    internet = Internet({})
    with pytest.raises(UsageError, match="cannot be read from here"):
        await remote(internet, {"pictures.example": addresses}).fetch("http://pictures.example/a.png")
    assert internet.reached == []


@pytest.mark.anyio
async def test_an_unknown_name_and_a_private_one_read_alike() -> None:
    told = set()
    for url in ("http://unknown.example/", "http://inside.example/"):
        with pytest.raises(UsageError) as caught:
            await remote(Internet({}), {"inside.example": ["10.0.0.1"]}).fetch(url)
        told.add(str(caught.value))
    assert len(told) == 1


@pytest.mark.anyio
async def test_a_redirect_is_checked_anew() -> None:
    internet = Internet(
        {
            "http://a.example/": redirect("https://b.example/x"),
            "https://b.example/x": redirect("/y"),
            "https://b.example/y": found,
        }
    )
    known = {"a.example": [PUBLIC], "b.example": ["8.8.8.8"]}
    assert await remote(internet, known).fetch("http://a.example/") == picture()
    assert [address for address, *_ in internet.reached] == [PUBLIC, "8.8.8.8", "8.8.8.8"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "target",
    [
        "http://inside.example/",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://a.example/",
        "//inside.example/",
        "http://user:password@a.example/",
    ],
)
async def test_a_redirect_inwards_is_refused(target: str) -> None:
    internet = Internet({"http://a.example/": redirect(target)})
    known = {"a.example": [PUBLIC], "inside.example": ["10.0.0.1"], "169.254.169.254": ["169.254.169.254"]}
    with pytest.raises(UsageError):
        await remote(internet, known).fetch("http://a.example/")
    assert len(internet.reached) == 1


@pytest.mark.anyio
async def test_a_fourth_redirect_is_too_many() -> None:
    internet = Internet({"http://a.example/": redirect("http://a.example/")})
    with pytest.raises(UsageError, match="more than 3 times"):
        await remote(internet, {"a.example": [PUBLIC]}).fetch("http://a.example/")
    assert len(internet.reached) == 4


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https:///a.png",
        "http://[::1",
        "http://a.example:99999/",
        "http://\x00/",
        "ftp://a/",
        "http://a b/",
    ],
)
async def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        await remote(Internet({}), {}).fetch(url)


@pytest.mark.anyio
@pytest.mark.parametrize("length", [{}, {"Content-Length": "1001"}])
async def test_too_many_bytes_are_refused(length: dict[str, str]) -> None:
    async def body() -> object:
        for _ in range(11):
            yield bytes(100)

    internet = Internet({"http://a.example/": lambda: httpx.Response(200, headers=length, content=body())})
    with pytest.raises(TooLarge, match=r"larger than 1,000 bytes"):
        await remote(internet, {"a.example": [PUBLIC]}).fetch("http://a.example/")


@pytest.mark.anyio
async def test_a_packed_body_is_not_unpacked() -> None:
    internet = Internet(
        {
            "http://a.example/": lambda: httpx.Response(
                200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b")
            )
        }
    )
    with pytest.raises(UsageError):
        await remote(internet, {"a.example": [PUBLIC]}).fetch("http://a.example/")


@pytest.mark.anyio
async def test_a_slow_name_runs_out_of_time() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(UsageError, match=r"did not answer within 0.02 s"):
        await RemotePictures(0.02, 1000, resolve).fetch("http://a.example/")


@pytest.mark.anyio
async def test_a_status_other_than_200_is_told() -> None:
    internet = Internet({"http://a.example/": lambda: httpx.Response(404)})
    with pytest.raises(UsageError, match="status 404"):
        await remote(internet, {"a.example": [PUBLIC]}).fetch("http://a.example/")


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "https://pictures.example/a.png"])
async def test_urls_are_refused_unless_they_are_allowed(url: str) -> None:
    backend = ScriptedBackend()
    async with client_of(app_of(backend)) as client:
        answered = await client.post("/v1/search", json={"image": url})
    assert answered.status_code == 400
    assert "does not fetch pictures by URL" in answered.json()["error"]["message"]
    assert backend.queries == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/a.png",
        "http://[::1]:1/a.png",
        "http://2130706433/a.png",
        "http://0x7f.1/a.png",
        "http://localhost/a.png",
    ],
)
async def test_where_urls_are_allowed_this_machine_is_not(url: str) -> None:
    backend = ScriptedBackend()
    async with client_of(app_of(backend, remote_images={"enabled": True})) as client:
        answered = await client.post("/v1/search", json={"image": url})
    assert answered.status_code == 400
    assert "cannot be read from here" in answered.json()["error"]["message"]
    assert backend.queries == []
