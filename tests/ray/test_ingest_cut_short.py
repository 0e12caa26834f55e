"""Ingests that are killed, interrupted, or lose a part: the next run ends with the stores of a whole one."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray.data
from ingest_workshop import First, assert_same_stores, without_servers, workshop
from ray.data import ActorPoolStrategy
from ray.exceptions import ActorDiedError, LocalRayletDiedError, RayTaskError

from benchmarks.processes import below, command, kill, vector_servers
from benchmarks.two_nodes import SETTINGS, TwoNodes
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.files import disk_errors
from pipelines.core.index import IndexConfig
from pipelines.core.stores import embedded
from pipelines.ingest import cluster_job, job
from pipelines.ingest.cluster_job import ACTOR, TASK
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.in_hand import KILLS, InHand
from pipelines.ingest.sources import Item
from pipelines.ingest.stages import ParseItems
from pipelines.settings import load_settings
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


def test_a_file_that_kills_its_readers_is_refused_and_all_others_are_ingested(
    first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly(ParseItems):
        def _read(self, place: int, item: Item, killers: Collection[str]) -> Any:
            read = super()._read(place, item, killers)
            if item.address.endswith("p2.png") and not read.parsed.rejected:
                os.kill(os.getpid(), signal.SIGKILL)
            return read

    monkeypatch.setattr(job, "ParseItems", Deadly)
    made = workshop(tmp_path)
    try:
        summary = made.ingest()
        assert summary.index["status"] == {"complete": 5, "rejected": 3}
        [letter] = [
            row
            for row in pq.read_table(made.directory / "rejected").to_pylist()
            if row["source"].endswith("p2.png")
        ]
        assert letter["stage"] == "parse"
        assert f"{KILLS} processes died over it" in letter["reason"]
        expected = {name: kept for name, kept in first[2]["pictures"].items() if "p2" not in name}
        assert made.contents()["pictures"] == expected
    finally:
        made.stop()


def test_what_kills_each_process_that_has_it_ends_the_job_and_is_named(
    local_ray: None, tmp_path: Path
) -> None:
    in_hand = InHand(tmp_path)

    def die(batch: dict[str, Any]) -> dict[str, Any]:
        in_hand("b.pdf")
        os.kill(os.getpid(), signal.SIGKILL)
        return batch

    wanted = r"\(WorkerCrashedError\) while reading documents; run the same.* process died over b\.pdf"
    with pytest.raises(MmragError, match=wanted), cluster_job.in_our_words("reading documents", in_hand):
        ray.data.range(1).map_batches(die, **TASK | {"max_retries": 1}).materialize()


def test_what_kills_each_encoder_that_has_it_ends_the_job(local_ray: None) -> None:
    class Dies:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGKILL)
            return batch

    dying = ray.data.range(1).map_batches(
        Dies, compute=ActorPoolStrategy(size=1), **ACTOR | {"max_task_retries": 1}
    )
    wanted = r"Ray lost .* while encoding; run the same command again"
    with pytest.raises(MmragError, match=wanted), cluster_job.in_our_words("encoding"):
        dying.materialize()


@pytest.mark.parametrize("translated", [True, False])
def test_a_disk_without_room_on_a_worker_is_told_in_one_line(local_ray: None, translated: bool) -> None:
    def full(batch: dict[str, Any]) -> dict[str, Any]:
        with disk_errors(Path("/kb")) if translated else nullcontext():
            raise OSError(errno.ENOSPC, "No space left on device", "/kb/previews/ab.jpg")

    # Ray Data loses the name of an OSError's file.
    path = "/kb/previews/ab.jpg" if translated else "/kb"
    wanted = rf"^{path}: No space left on device; make room there, and run the same command again$"
    told = pytest.raises(MmragError, match=wanted)
    with told, disk_errors(Path("/kb")), cluster_job.cluster(IngestConfig()):
        ray.data.range(3).map_batches(full).materialize()


def test_a_writer_waits_outside_of_a_request_where_it_sees_that_its_run_has_ended() -> None:
    assignments = ["stores.elastic.url=http://127.0.0.1:9200", "stores.elastic.prefix=mm-"]
    config = load_settings(None, assignments).index
    written = job._asked_once(config).stores.elastic
    assert config.stores.elastic is not None
    assert written == config.stores.elastic.model_copy(update={"max_retries": 0})
    assert job._asked_once(IndexConfig()) == IndexConfig()


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
    with pytest.raises(ActorDiedError) as told, cluster_job.in_our_words(), cluster_job.in_our_words("work"):
        raise failed
    assert told.value is failed
    assert isinstance(cluster_job.own_error(ActorDiedError()), MmragError)
    assert isinstance(cluster_job.own_error(LocalRayletDiedError()), MmragError)
