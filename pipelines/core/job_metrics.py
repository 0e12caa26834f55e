"""What a batch job measures for Prometheus, and how it says so. Knows neither Ray nor a job.

Each job's own are in its `metrics.py`; `core/ray_metrics.py` records them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Upper bounds of a histogram's buckets; Ray sends the counts, and a sum that it estimates from them."""


@dataclass(frozen=True, slots=True)
class JobMetric:
    """A histogram is of seconds. A counter is recorded by what is added."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """Its name in Prometheus, as Ray writes it. Of a histogram, `_bucket` and so on follow."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


class Record(Protocol):
    """Called with a metric, a value and the metric's labels, at any time, in any process of a job."""

    def __call__(self, metric: JobMetric, value: float, /, **labels: str) -> None: ...


def unrecorded(metric: JobMetric, value: float, /, **labels: str) -> None:
    """The record of a job that nobody watches."""


@contextmanager
def timed(record: Record, metric: JobMetric, **labels: str) -> Iterator[None]:
    """Record the seconds of a block that ends well."""
    start = time.perf_counter()
    yield
    record(metric, time.perf_counter() - start, **labels)
