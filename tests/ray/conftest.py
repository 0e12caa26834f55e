"""One Ray and one ingested index for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ingest_workshop import First, workshop

from pipelines.core.ray_runtime import ray_runtime


@contextmanager
def _ray_of(cpus: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_metrics_report_interval_ms", "1000")  # of its processes to Ray's agent
        with ray_runtime(cpus=cpus):
            yield


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    with _ray_of(2):
        yield


@pytest.fixture(scope="module")
def roomy_ray() -> Iterator[None]:
    """For a training's workers, and what feeds them."""
    with _ray_of(4):
        yield


@pytest.fixture(scope="module")
def first(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    """One whole run. Its index is not changed by any test; those that go on work on a copy."""
    made = workshop(tmp_path_factory.mktemp("first"))
    summary = made.ingest()
    yield made, summary, made.contents()
    made.stop()
