"""Stores that do not answer for a while."""

from __future__ import annotations

import pytest

from pipelines.core import patience
from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.patience import patiently


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(patience, "time", clock)
    return clock


class Store:
    """Answers from `up_s` seconds on."""

    def __init__(self, clock: Clock, up_s: float) -> None:
        self._clock, self._up_s = clock, up_s
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        if self._clock.now < self._up_s:
            raise StoreUnavailable("nobody there")
        return "written"


def test_what_answers_is_asked_once(clock: Clock) -> None:
    store = Store(clock, 0)
    assert patiently(store, 0) == "written"
    assert (store.asked, clock.waits) == (1, [])


@pytest.mark.parametrize("outage_s", [0.1, 3, 30, 200])
def test_after_an_outage_no_more_than_the_longest_wait_is_lost(clock: Clock, outage_s: float) -> None:
    store = Store(clock, outage_s)
    assert patiently(store, 300) == "written"
    assert outage_s <= clock.now <= outage_s + 5
    assert max(clock.waits) <= 5
    assert store.asked < 8 + outage_s / 5


def test_it_ends_with_the_store_s_own_words(clock: Clock) -> None:
    with pytest.raises(StoreUnavailable, match="nobody there"):
        patiently(Store(clock, 1000), 60)
    assert 55 <= clock.now <= 60


def test_what_answered_for_long_before_is_no_outage(clock: Clock) -> None:
    failures = [StoreUnavailable("gone")]

    def call() -> str:
        clock.now += 1000
        if failures:
            raise failures.pop()
        return "written"

    assert patiently(call, 60) == "written"
    assert clock.waits == [0.5]


def test_without_patience_nothing_is_asked_twice(clock: Clock) -> None:
    store = Store(clock, 1)
    with pytest.raises(StoreUnavailable):
        patiently(store, 0)
    assert (store.asked, clock.waits) == (1, [])


def test_what_a_store_refuses_is_not_asked_again(clock: Clock) -> None:
    def refused() -> None:
        clock.now += 1
        raise StoreError("too long")

    with pytest.raises(StoreError, match="too long"):
        patiently(refused, 60)
    assert clock.now == 1
