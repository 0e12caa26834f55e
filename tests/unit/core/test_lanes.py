"""Threads that hang in one lane, and calls in it and in another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.core.lanes import Lanes

HANGING_S = 0.1


@pytest.fixture
def over() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes(("a", "b"), 2, HANGING_S)
    yield made
    made.close()


def in_a_minute() -> float:
    return time.monotonic() + 60


def test_another_lane_does_not_notice(lanes: Lanes, over: threading.Event) -> None:
    for _ in range(10):
        lanes.submit("a", over.wait, 60)
    assert lanes.submit("b", int, "7").result(60) == 7


def test_what_no_thread_takes_up_is_cancelled_and_what_comes_after_is_refused_at_once(
    lanes: Lanes, over: threading.Event
) -> None:
    hanging = [lanes.submit("a", over.wait, 60) for _ in range(2)]
    waiting = lanes.submit("a", int)
    lanes.wait([waiting], time.monotonic() + HANGING_S)
    assert waiting.cancelled()
    over.wait(HANGING_S)
    assert lanes.submit("a", int).cancelled()
    over.set()
    lanes.wait(hanging, in_a_minute())
    assert [one.result() for one in hanging] == [True, True]
    assert lanes.submit("a", int, "7").result(60) == 7


def test_calls_that_end_let_those_in_that_wait(lanes: Lanes) -> None:
    calls = [lanes.submit("a", int, str(n)) for n in range(100)]
    lanes.wait(calls, in_a_minute())
    assert [one.result() for one in calls] == list(range(100))


def test_a_lane_that_is_slow_and_busy_gives_up_no_call(lanes: Lanes) -> None:
    calls = [lanes.submit("a", time.sleep, HANGING_S * 0.6) for _ in range(8)]
    lanes.wait(calls, in_a_minute())
    assert not [call for call in calls if call.cancelled()]


def test_a_call_that_goes_on_is_left_behind_at_the_deadline(lanes: Lanes, over: threading.Event) -> None:
    late = lanes.submit("a", over.wait, 60)
    lanes.wait([late], time.monotonic() + 2 * HANGING_S)
    assert late.running()
