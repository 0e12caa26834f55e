"""What Prometheus finds at the port of the running Ray."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import ray
from prometheus_client.parser import text_string_to_metric_families

_LABELS = ("kind", "stage", "store", "model")


def exported() -> dict[tuple[str, ...], float]:
    """Our samples by name and labels, over all processes."""
    [node] = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    totals: Counter[tuple[str, ...]] = Counter()
    for family in text_string_to_metric_families(httpx.get(url, timeout=10).text):
        for sample in family.samples:
            labels = (sample.labels[name] for name in _LABELS if name in sample.labels)
            if sample.name.startswith("ray_mmrag_") and "le" not in sample.labels:
                totals[sample.name, *labels] += sample.value
    return totals


@contextmanager
def highest_exported() -> Iterator[dict[tuple[str, ...], float]]:
    """Of each sample the highest value that was found meanwhile: those of a process go with it."""
    found: dict[tuple[str, ...], float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            with suppress(httpx.HTTPError):  # the port opens a little later than Ray
                for name, value in exported().items():
                    found[name] = max(found.get(name, value), value)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
