"""A value that several threads ask for at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.core.errors import StoreUnavailable
from pipelines.core.lazy import Lazy


def test_it_is_made_once_and_again_when_it_no_longer_serves() -> None:
    made: list[int] = []
    serves = True

    def make() -> int:
        made.append(len(made))
        return made[-1]

    value = Lazy(make, lambda _: serves)
    assert not value.made
    assert (value(), value(), value.made) == (0, 0, True)
    serves = False
    assert value() == 1


def test_all_that_waited_for_one_that_fails_are_told_at_once_and_the_next_tries_again() -> None:
    calls: list[str] = []
    fails, go = True, threading.Event()

    def open_store() -> str:
        calls.append("open")
        go.wait(60)
        if fails:
            raise StoreUnavailable("it hangs")
        return "store"

    value = Lazy(open_store)
    entered = threading.Barrier(5)

    def ask() -> str:
        entered.wait(60)
        return value()

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        entered.wait(60)
        while not calls:
            pass
        go.wait(0.2)  # the others reach it, too
        go.set()
        for one in asking:
            with pytest.raises(StoreUnavailable, match="it hangs"):
                one.result(60)
    assert calls == ["open"]
    fails = False
    assert value() == "store"
