"""How `mmrag serve` starts and is stopped, around a server that is none. Starts no Ray."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayError
from shell import mmrag

from pipelines import cli_serve
from pipelines.core.errors import MmragError, StoreUnavailable, UsageError
from pipelines.serve import app
from pipelines.serve.backend import Health
from pipelines.serve.config import ServeConfig

READY = Health(True, {"retrieval": "ok", "generator": "ok"})
WAITS = Health(False, {"retrieval": "no answer within 5 s", "generator": "ok"})


class Server:
    """Its health is what each of `told` gives, called or raised, one after the other."""

    def __init__(self, *told: Any) -> None:
        self._told = list(told)
        self.events: list[str] = []

    @contextmanager
    def serving(self, parts: Any) -> Iterator[str]:
        try:
            yield "http://here"
        finally:
            self.events.append("ended")

    def health(self, *_: object, **__: object) -> Health:
        told = self._told.pop(0)
        if isinstance(told, Exception):
            raise told
        return told() if callable(told) else told

    def ready(self, address: str) -> None:
        self.events.append(f"ready at {address}")
        os.kill(os.getpid(), signal.SIGTERM)

    def run(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        before = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(app, "serving", self.serving)
        monkeypatch.setattr(app, "waited", self.health)
        monkeypatch.setattr(app.serve, "get_app_handle", lambda name: type("Gateway", (), {"health": None}))
        monkeypatch.setattr(app.time, "sleep", lambda seconds: None)
        app.run(None, self.ready)  # type: ignore[arg-type]
        assert signal.getsignal(signal.SIGTERM) is before
        return self.events


def test_it_is_ready_when_its_health_is_and_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(StoreUnavailable("no gateway"), RayError("a fault"), WAITS, WAITS, READY)
    assert server.run(monkeypatch) == ["ready at http://here", "ended"]
    assert [record.getMessage() for record in caplog.records] == [
        "not ready yet: no gateway",
        "not ready yet: a fault",
        "not ready yet: retrieval: no answer within 5 s",
    ]


def interrupted(number: int) -> Callable[[], Health]:
    def wait() -> Health:
        os.kill(os.getpid(), number)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            pass
        return READY

    return wait


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_before_it_is_ready(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    assert Server(WAITS, interrupted(number)).run(monkeypatch) == ["ended"]


def test_a_second_signal_leaves_the_ending_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(interrupted(signal.SIGTERM))
    whole = server.serving

    @contextmanager
    def serving(parts: Any) -> Iterator[str]:
        with whole(parts) as address:
            try:
                yield address
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

    server.serving = serving  # type: ignore[method-assign]
    assert server.run(monkeypatch) == ["ended"]


class Deployed:
    """In Ray's place: keeps the addresses at which its Serve was to listen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[tuple[str, int]] = []
        self.while_ray_starts: Callable[[], None] = lambda: None
        replaced: dict[str, Any] = {
            "ray_runtime": self._ray,
            "serve": SimpleNamespace(run=lambda *_, **__: None, shutdown=lambda: None),
            "_listen": self._listen,
            "application": lambda parts: None,
            "reserved": lambda parts: {},
            "_finish": lambda within_s: None,
        }
        for name, instead in replaced.items():
            monkeypatch.setattr(app, name, instead)

    @contextmanager
    def _ray(self, **options: Any) -> Iterator[None]:
        self.while_ray_starts()
        yield

    def _listen(self, config: ServeConfig, address: tuple[str, int]) -> None:
        self.addresses.append(address)


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Deployed:
    """Parts as the settings have them, without an index or a model."""

    def parts(settings: Any, index: Path) -> Any:
        return SimpleNamespace(serve=settings.serve, generator=settings.generator, index_dir=tmp_path)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cli_serve, "served_parts", parts)
    monkeypatch.setattr(app, "_wait_until_healthy", lambda: os.kill(os.getpid(), signal.SIGTERM))
    return Deployed(monkeypatch)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that a server as Ray's listens at."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as server:
        yield server.getsockname()[1]


def test_where_it_cannot_listen_it_says_so_in_a_line_before_anything_starts(
    deployed: Deployed, taken: int
) -> None:
    found = mmrag("serve", "--port", taken)
    assert (found.status, len(found.err.splitlines())) == (2, 1)
    assert f"port {taken} of 127.0.0.1 is taken: another server? name another with --port" in found.err
    found = mmrag("serve", "--host", "kb.invalid", "--port", 0)
    *access, told = found.err.splitlines()
    assert (found.status, len(access)) == (2, 1), "without keys it would stand open, which is said first"
    assert "kb.invalid is no address of this machine" in told
    assert deployed.addresses == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_free_port_is_the_one_that_is_served(deployed: Deployed, host: str) -> None:
    assert mmrag("serve", "--host", host, "--port", 0).status == 0
    [(at, port)] = deployed.addresses
    assert (at, port > 0) == (host, True)


def test_any_port_is_drawn_when_rays_own_processes_have_theirs(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn before, it was now and then one that they took, and the server did not start."""
    drawn = app.open_port("127.0.0.1")
    deployed.while_ray_starts = lambda: monkeypatch.setattr(
        app, "open_port", lambda host, port: port or drawn
    )
    parts: Any = SimpleNamespace(serve=ServeConfig(port=0), generator=SimpleNamespace(served_by="none"))
    with app.serving(parts) as address:
        assert address == f"http://127.0.0.1:{drawn}"
    assert deployed.addresses == [("127.0.0.1", drawn)]


def test_a_port_that_was_named_and_is_taken_meanwhile_is_refused(deployed: Deployed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    others: list[socket.socket] = []
    deployed.while_ray_starts = lambda: others.append(socket.create_server(("127.0.0.1", port)))
    parts: Any = SimpleNamespace(serve=ServeConfig(port=port), generator=SimpleNamespace(served_by="none"))
    with pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 is taken"), app.serving(parts):
        pass
    others.pop().close()
    assert deployed.addresses == []


@pytest.mark.parametrize("joined", ["RAY_ADDRESS", "the caller's"])
def test_a_cluster_that_is_joined_listens_elsewhere_or_has_that_port_itself(
    deployed: Deployed, taken: int, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if joined == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    else:
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
    assert mmrag("serve", "--port", taken).status == 0
    assert deployed.addresses == [("127.0.0.1", taken)]


@pytest.mark.parametrize("host", ["::1", "10.0.0.5"])
def test_a_host_at_which_haproxy_would_find_no_gateway_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match=f"reaches no gateways at {host}: .*127"):
        app._http_proxy(ServeConfig(host=host, http_proxy="haproxy"))


def test_a_proxy_that_cannot_listen_is_told_by_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def start(**options: Any) -> None:
        raise RuntimeError(
            "ray::ProxyActor.ready()\n  File ...\nRuntimeError: Failed to bind to address 'x:1'.\n"
        )

    monkeypatch.setattr(app.serve, "start", start)
    monkeypatch.setattr(app.serve, "shutdown", lambda: ended.append(True))
    with pytest.raises(
        MmragError, match=r"^the server did not start: RuntimeError: Failed to bind to address 'x:1'"
    ):
        app._listen(ServeConfig(), ("x", 1))
    assert ended == [True]
