"""How many encoders an ingest runs, and what each of them takes of the cluster. Knows no Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.core.embedder import EmbedderConfig
from pipelines.core.encoder import EncoderConfig
from pipelines.core.errors import UsageError
from pipelines.ingest.config import IngestConfig

_MOST_A_NODE = 8  # each holds the models


@dataclass(frozen=True, slots=True)
class Encoders:
    """`count` encoders of so many `threads`, for each of which Ray puts aside `cpus` and `gpus`."""

    count: int
    threads: int
    cpus: int
    gpus: int


def use_gpu(encoder: EncoderConfig, embedder: EmbedderConfig) -> bool:
    """Whether either model, of which each of the encoders holds both, runs on a GPU where there is one."""
    return encoder.device != "cpu" or (embedder.kind == "hub" and embedder.device != "cpu")


def encoders_for(
    node_cpus: Sequence[int], gpus: int, config: IngestConfig, most: int, threads_a_cpu: int = 1
) -> Encoders:
    """One a GPU, else half of each node's CPUs shared out among a few: the rest is for reading and writing.

    `node_cpus` are those that Ray counts on each node, and an encoder fits on one; `gpus` are those of all
    nodes, 0 where the models do not use them. No more encoders than the blocks that there are to encode
    (`most`): another would only load its models. Several of one thread beat one of several, whose threads
    wait for each other while the same cores decode.
    Raises UsageError where the settings leave no CPU to others, or want an encoder that no node can hold.
    """
    total, largest = sum(node_cpus), max(node_cpus, default=0)
    halves = [cpus // 2 for cpus in node_cpus]
    if gpus:
        count, threads, cpus = config.encoders or gpus, 1, 1
    else:
        cpus = math.ceil(config.encoder_threads / threads_a_cpu) or _cpus_each(halves, config.encoders)
        threads = config.encoder_threads or cpus * threads_a_cpu
        count = config.encoders or max(1, sum(min(half // cpus, _MOST_A_NODE) for half in halves))
    if count * cpus >= total:
        raise UsageError(
            f"{count} encoders of {threads} threads leave nothing of Ray's {total} CPUs for reading and "
            "writing; lower ingest.encoders or ingest.encoder_threads, or give Ray more CPUs"
        )
    if cpus > largest:
        raise UsageError(
            f"an encoder of {threads} threads wants {cpus} CPUs of one node, and Ray counts {largest} on the "
            "largest; lower ingest.encoder_threads"
        )
    return Encoders(min(count, most), threads, cpus, 1 if gpus else 0)


def _cpus_each(halves: Sequence[int], encoders: int) -> int:
    """An equal share: of the largest node, or where their number is given, of all nodes."""
    largest = max(halves, default=0)
    share = min(largest, sum(halves) // encoders) if encoders else largest // _MOST_A_NODE
    return max(1, share)
