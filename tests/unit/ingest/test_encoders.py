"""How many encoders there are, on one machine and on many, and what each takes."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.core.embedder import EmbedderConfig
from pipelines.core.encoder import EncoderConfig
from pipelines.core.errors import UsageError
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.encoders import Encoders, encoders_for, use_gpu

MANY = 10**6


@pytest.mark.parametrize(
    ("node_cpus", "count", "cpus"),
    [
        ([4], 2, 1),  # a machine of two cores, whose own Ray counts each twice
        ([64], 8, 4),
        ([40], 8, 2),
        ([8] * 20, 80, 1),  # shared out by their sum, each wanted 10 CPUs of a node of 8
        ([0, 8, 8], 8, 1),  # a head that takes no work
        ([64, 8], 9, 4),
        ([64, 2], 8, 4),  # the small one only reads and writes
        ([3], 1, 1),
    ],
)
def test_each_node_has_its_share_of_encoders_and_each_encoder_fits_on_a_node(
    node_cpus: list[int], count: int, cpus: int
) -> None:
    assert encoders_for(node_cpus, 0, IngestConfig(), MANY) == Encoders(count, cpus, cpus, 0)


def test_where_ray_counts_each_core_once_as_many_threads_encode_as_there_are_cores() -> None:
    assert encoders_for([8, 8], 0, IngestConfig(), MANY, threads_a_cpu=2) == Encoders(8, 2, 1, 0)
    chosen = IngestConfig(encoder_threads=3)
    assert encoders_for([8, 8], 0, chosen, MANY, threads_a_cpu=2) == Encoders(4, 3, 2, 0)


def test_there_is_one_for_each_gpu() -> None:
    assert encoders_for([0, 16, 16], 4, IngestConfig(), MANY) == Encoders(4, 1, 1, 1)


def test_no_more_are_started_than_there_are_blocks() -> None:
    assert encoders_for([16], 0, IngestConfig(), most=3) == Encoders(3, 1, 1, 0)


@pytest.mark.parametrize(
    ("settings", "node_cpus", "expected"),
    [
        ({"encoders": 2}, [16], Encoders(2, 4, 4, 0)),
        ({"encoders": 1}, [8] * 20, Encoders(1, 4, 4, 0)),
        ({"encoders": 10}, [8] * 20, Encoders(10, 4, 4, 0)),
        ({"encoder_threads": 2}, [16], Encoders(4, 2, 2, 0)),
        ({"encoders": 3, "encoder_threads": 2}, [16], Encoders(3, 2, 2, 0)),
    ],
)
def test_what_the_settings_say_stands(
    settings: dict[str, int], node_cpus: list[int], expected: Encoders
) -> None:
    assert encoders_for(node_cpus, 0, IngestConfig(**settings), MANY) == expected


@pytest.mark.parametrize(
    ("settings", "node_cpus", "told"),
    [
        ({"encoder_threads": 10}, [8] * 20, "wants 10 CPUs of one node, and Ray counts 8 on the largest"),
        ({"encoders": 16}, [16], "16 encoders of 1 threads leave nothing of Ray's 16 CPUs"),
        ({}, [1], "leave nothing of Ray's 1 CPUs"),
        ({}, [], "leave nothing of Ray's 0 CPUs"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    settings: dict[str, int], node_cpus: list[int], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        encoders_for(node_cpus, 0, IngestConfig(**settings), MANY)


@pytest.mark.parametrize(
    ("device", "embedder", "expected"),
    [
        ("auto", {}, True),
        ("cuda", {}, True),
        ("cpu", {}, False),
        ("cpu", {"device": "cuda"}, False),  # the packaged one runs on CPUs whatever is said
        ("cpu", {"kind": "hub", "model": "m"}, True),
        ("cpu", {"kind": "hub", "model": "m", "device": "cpu"}, False),
    ],
)
def test_models_that_run_on_cpus_take_no_gpu(device: str, embedder: dict[str, Any], expected: bool) -> None:
    assert use_gpu(EncoderConfig(device=device), EmbedderConfig(**embedder)) is expected
