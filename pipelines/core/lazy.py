"""A value that is made when it is first asked for, once for as long as it lasts, whatever thread asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """`lasts`: whether the value still serves; one that does not is made anew. None: it does."""

    def __init__(self, make: Callable[[], T], lasts: Callable[[T], bool] | None = None) -> None:
        self._make, self._lasts = make, lasts
        self._lock = threading.Lock()
        self._values: list[T] = []

    def __call__(self) -> T:
        with self._lock:
            if self._values and self._lasts and not self._lasts(self._values[0]):
                self._values.clear()
            if not self._values:
                self._values.append(self._make())
            return self._values[0]

    @property
    def made(self) -> bool:
        return bool(self._values)
