"""A value that is made when it is first asked for, once for as long as it lasts, whatever thread asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """`lasts`: whether the value still serves; one that does not is made anew. None: it does.

    A failure is told to all that waited for it, and the next call tries again: where a server hangs, they
    would else wait for it one after another.
    """

    def __init__(self, make: Callable[[], T], lasts: Callable[[T], bool] | None = None) -> None:
        self._make, self._lasts = make, lasts
        self._lock = threading.Lock()
        self._values: list[T] = []
        self._making: Future[T] | None = None

    def __call__(self) -> T:
        with self._lock:
            if self._values and self._lasts and not self._lasts(self._values[0]):
                self._values.clear()
            if self._values:
                return self._values[0]
            making, is_ours = self._making or Future[T](), self._making is None
            self._making = making
        if is_ours:
            self._made_by_us(making)
        return making.result()

    @property
    def made(self) -> bool:
        return bool(self._values)

    def _made_by_us(self, making: Future[T]) -> None:
        try:
            value = self._make()
        except BaseException as exc:
            with self._lock:
                self._making = None
            making.set_exception(exc)
            raise
        else:
            with self._lock:
                self._values, self._making = [value], None
            making.set_result(value)
