"""Starting Ray on a machine that is too busy for the time Ray allows itself. The real one: tests/ray."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from pipelines.core.errors import UsageError
from pipelines.core.ray_runtime import ray_runtime

LATE = RuntimeError("Timed out waiting for file /tmp/ray/session_x/gcs_server_port_y")


class Starts:
    """`ray.init` with these outcomes, one a call."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *address: str, **options: Any) -> SimpleNamespace:
        self.calls.append((*address, *(options[name] for name in ("address", "num_cpus") if name in options)))
        if outcome := self.outcomes.pop(0):
            raise outcome
        return SimpleNamespace(dashboard_url="10.0.0.9:8265")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    ended: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in ("RAY_BACKEND_LOG_LEVEL", "RAY_gcs_server_port_wait_time_s"):
        monkeypatch.setenv(name, "as it was")
    return ended


def test_a_start_that_was_late_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, ended: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray, "init", starts := Starts(LATE, None))
    with ray_runtime(cpus=1000):
        assert ended == [True]  # what was left of the first
    assert starts.calls == [("local", 1000)] * 2
    assert ended == [True, True]
    assert "trying once more: Timed out waiting for file" in caplog.text


def test_late_twice_is_an_error(monkeypatch: pytest.MonkeyPatch, ended: list[bool]) -> None:
    monkeypatch.setattr(ray, "init", Starts(LATE, LATE))
    with pytest.raises(RuntimeError, match="Timed out"), ray_runtime():
        pass


@pytest.mark.parametrize(
    ("cause", "advice"),
    [("AuthenticationError: RPC error: InvalidAuthToken", "RAY_AUTH_TOKEN"), ("timed out", "is it up")],
)
def test_a_cluster_that_cannot_be_joined_is_named(
    monkeypatch: pytest.MonkeyPatch, ended: list[bool], cause: str, advice: str
) -> None:
    refused = ConnectionError("Failed to connect to Ray cluster")
    refused.__cause__ = RuntimeError(f"Failed to connect to GCS. Last connection error: {cause}")
    monkeypatch.setattr(ray, "init", Starts(refused))
    told = f"10.0.0.1:6379 cannot be joined.*{advice}"
    with pytest.raises(UsageError, match=told), ray_runtime("10.0.0.1:6379"):
        pass
    assert not ended


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, ended: list[bool]) -> None:
    monkeypatch.setattr(ray, "init", Starts(ValueError("no such option")))
    with pytest.raises(ValueError, match="no such option"), ray_runtime():
        pass


def test_metrics_are_at_the_port_that_is_asked_for_or_the_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, ended: list[bool]
) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("RAY_METRICS_EXPORT_PORT", str(port))
        with (
            pytest.raises(UsageError, match=rf"RAY_METRICS_EXPORT_PORT={port}: .*in use.*; name a free port"),
            ray_runtime(),
        ):
            pass
    options: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda address, **given: options.update(given))
    with ray_runtime():
        pass
    assert options["_metrics_export_port"] == port


@pytest.mark.parametrize("environment", ["", "10.0.0.9:6379"])
def test_a_cluster_that_is_named_is_not_started_and_its_dashboard_is_told(
    monkeypatch: pytest.MonkeyPatch,
    ended: list[bool],
    capsys: pytest.CaptureFixture[str],
    environment: str,
) -> None:
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    monkeypatch.setattr(ray, "init", starts := Starts(None))
    with ray_runtime("" if environment else "10.0.0.9:6379", cpus=4):
        pass
    assert starts.calls == [("10.0.0.9:6379",)]
    assert capsys.readouterr() == ("", "Ray's dashboard: http://10.0.0.9:8265\n")


def test_gpus_that_this_machine_has_not_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, ended: list[bool]
) -> None:
    monkeypatch.setattr(ray, "init", Starts(None))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    told = "^this machine has too little: 0 of 2 GPUs$"
    with pytest.raises(UsageError, match=told), ray_runtime(waits_for={"CPU": 2, "GPU": 2}):
        pass
    assert ended == [True]


def test_what_a_cluster_has_not_yet_or_not_free_is_told_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, ended: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "init", Starts(None))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 9.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    with ray_runtime("10.0.0.9:6379", waits_for={"CPU": 3, "GPU": 2}):
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        with ray_runtime(waits_for={"CPU": 2, "GPU": 1}), ray_runtime(waits_for={"CPU": 9}):
            pass
    told = [line for line in capsys.readouterr().err.splitlines() if "waiting" in line]
    assert told == [
        "Ray's cluster has 2 of 3 CPUs and 1 of 2 GPUs free; waiting for the rest",
        "Ray's cluster has 2 of 9 CPUs free; waiting for the rest",
    ]
