"""How `mmrag serve` starts and is stopped, around a server that is none. Starts no Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ray.exceptions import RayError

from pipelines.core.errors import StoreUnavailable
from pipelines.serve import app
from pipelines.serve.backend import Health

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
