"""Ingests that are killed, interrupted, or lose a part: the next run ends with the stores of a whole one."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray.data
from ingest_workshop import First, assert_same_stores, without_servers, workshop
from ray.exceptions import ActorDiedError, LocalRayletDiedError, RayTaskError

from benchmarks.processes import below, command, kill, vector_servers
from benchmarks.two_nodes import SETTINGS, TwoNodes
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.stores import embedded
from pipelines.ingest import cluster_job
from pipelines.ingest.config import IngestConfig
from tests.contracts.servers import elastic_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ACKNOWLEDGED = "runs/*/acks/*.parquet"


def assert_gone(processes: list[psutil.Process], within_s: float = 60) -> None:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    assert [command(process) for process in alive] == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_run_cut_in_the_middle_is_completed_by_the_next(
    first: First,
    tmp_path: Path,
    sent: signal.Signals,
) -> None:
    made = workshop(tmp_path)
    process = made.start()
    try:
        made.wait_for(ACKNOWLEDGED, process)
        its_own = without_servers(below(process.pid))
        servers = vector_servers(made.directory)
        process.send_signal(sent)
        if sent == signal.SIGKILL:
            assert servers
            kill(servers)
        _, said = process.communicate(timeout=200)
        assert process.returncode == (-signal.SIGKILL if sent == signal.SIGKILL else 130)
        if sent == signal.SIGINT:
            # After a kill Ray's own agents take a minute to notice; nobody waits for that.
            assert_gone(its_own)
            assert "interrupted" in said
            assert "Traceback" not in said
            # Nobody holds the vector servers, so they end when their idle time is over.
            for server in (made.directory / "vectors").iterdir():
                assert not embedded._has_clients(server)
        assert not (made.directory / "ledger").exists()
        summary = made.ingest()
        assert summary.index["status"] == {"complete": 6, "rejected": 2}
        assert_same_stores(made, first)
        assert list((made.directory / "runs").iterdir()) == []
    finally:
        process.kill()
        made.stop()


def test_a_job_on_two_nodes_goes_on_when_the_one_with_the_encoder_is_lost_and_another_comes(
    first: First, tmp_path: Path
) -> None:
    vectors = embedded.attach(tmp_path / "vectors")
    try:
        with elastic_server(tmp_path) as words, TwoNodes() as nodes:
            stores = f"stores.milvus.uri={vectors}", f"stores.elastic.url={words}"
            made = workshop(tmp_path, *SETTINGS, "ingest.writers=1", *stores)
            process = made.start(environment=nodes.environment)
            try:
                made.wait_for(ACKNOWLEDGED, process)
                nodes.kill()
                nodes.add()
                _, said = process.communicate(timeout=300)
            finally:
                process.kill()
            assert process.returncode == 3, said  # with the two dead letters of this corpus
            assert_same_stores(made, first)
    finally:
        embedded.stop(tmp_path / "vectors")


def test_an_error_of_ours_in_a_task_is_told_in_its_own_words(local_ray: None) -> None:
    def refuse(batch: dict[str, Any]) -> dict[str, Any]:
        raise UsageError("reading PDFs needs: pip install 'mmrag[pdf]'")

    wanted = r"^reading PDFs needs: pip install 'mmrag\[pdf\]'$"
    with pytest.raises(UsageError, match=wanted), cluster_job.cluster(IngestConfig()):
        ray.data.range(3).map_batches(refuse).materialize()


def test_a_part_of_the_job_that_ray_lost_is_told_with_what_to_do(local_ray: None) -> None:
    def die(batch: dict[str, Any]) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return batch

    wanted = r"^Ray lost a process or a node of this job \(\w+\); run the same command again: it goes on"
    with pytest.raises(MmragError, match=wanted), cluster_job.cluster(IngestConfig()):
        ray.data.range(1).map_batches(die, max_retries=0).materialize()


def test_a_part_that_cannot_start_for_its_own_error_is_no_lost_one() -> None:
    failed = ActorDiedError(RayTaskError("Encode", "a traceback", ValueError("no such scale")))
    assert cluster_job.own_error(failed) is failed
    assert isinstance(cluster_job.own_error(ActorDiedError()), MmragError)
    assert isinstance(cluster_job.own_error(LocalRayletDiedError()), MmragError)
