"""A port is taken by whoever listens there, as Ray's proxies do, and by nobody who has ended."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pipelines.core.errors import UsageError
from pipelines.serve.ports import open_port

IPV6 = pytest.mark.skipif(not socket.has_ipv6, reason="a Python without IPv6")
HOSTS = ["127.0.0.1", "0.0.0.0", pytest.param("::1", marks=IPV6), pytest.param("::", marks=IPV6)]


def listener(host: str, *, shares: bool) -> socket.socket:
    """As Ray Serve's proxy binds where it `shares` the port."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shares:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, 0))
    found.listen()
    return found


@pytest.fixture(params=[True, False], ids=["shared", "not shared"])
def server(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with listener("127.0.0.1", shares=request.param) as found:
        yield found


@pytest.mark.parametrize("host", HOSTS)
def test_any_free_one_is_found_and_is_free(host: str) -> None:
    port = open_port(host)
    assert port
    assert open_port(host, port) == port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_one_that_somebody_listens_at_is_refused(server: socket.socket, host: str) -> None:
    port = server.getsockname()[1]
    told = f"port {port} of {host} is taken: another server? name another with --port, 0 for any"
    with pytest.raises(UsageError) as refused:
        open_port(host, port)
    assert str(refused.value) == told


@IPV6
def test_one_that_is_taken_at_an_ipv6_address_is_refused() -> None:
    with listener("::1", shares=True) as server, pytest.raises(UsageError, match="of ::1 is taken"):
        open_port("::1", server.getsockname()[1])


def test_what_a_server_that_ended_leaves_behind_refuses_none(server: socket.socket) -> None:
    port = server.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)) as caller:
        server.accept()[0].close()  # it closes first: TIME_WAIT is on its side
        caller.recv(1)
    server.close()
    assert open_port("127.0.0.1", port) == port


@pytest.mark.parametrize("port", [0, 8000])
@pytest.mark.parametrize("host", ["kb.invalid", "198.51.100.7", "::zz", "[::1]", "é" * 64])
def test_a_host_that_is_no_address_of_this_machine_is_refused(host: str, port: int) -> None:
    with pytest.raises(UsageError, match=r"is no address of this machine .*name one with --host"):
        open_port(host, port)
