"""The real fine-tuning job on a tiny LLaVA: its command, and runs that were killed and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from llava_run import QUICK, STEPS, command, conversations, losses, settings, train
from ray_metrics_port import highest_exported

from benchmarks.processes import below, kill, matching
from pipelines import export_llava, train_llava
from pipelines.core.errors import MissingDependency, UsageError
from pipelines.train import llava_job
from pipelines.train.metrics import METRICS, STEP
from pipelines.train.run_log import read_steps

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def uninterrupted(work: Path, roomy_ray: None) -> Path:
    out = work / "whole"
    summary, _ = train(work, out, "--export", "merged")
    assert summary["step"] == summary["steps_run"] == STEPS
    assert summary["samples"] + summary["held_out"] == 24
    assert summary["rejected"] == 0
    assert summary["tokens_per_s"] > 0
    assert Path(summary["curve"]).stat().st_size > 10_000
    assert (Path(summary["checkpoint"]) / "adapter" / "adapter_model.safetensors").is_file()
    return out


def test_training_learns_and_its_export_is_a_model(uninterrupted: Path) -> None:
    found = losses(uninterrupted)
    assert sorted(found) == list(range(1, STEPS + 1))
    assert found[STEPS] < 0.9 * found[1]
    judged = [record["step"] for record in read_steps(uninterrupted) if "eval_loss" in record]
    assert judged == [10, 20, 30, 40, 50, 60]

    from transformers import LlavaForConditionalGeneration

    LlavaForConditionalGeneration.from_pretrained(uninterrupted / "merged")


def test_a_finished_command_given_again_ends_well_and_needs_no_ray(
    work: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job does that a cluster starts again."""
    monkeypatch.delattr(llava_job, "ray_runtime")  # a run that wanted a worker would fail
    told = json.loads((uninterrupted / "summary.json").read_text())
    merged = uninterrupted / "merged" / "model.safetensors"
    written = merged.stat().st_mtime_ns
    summary, said = train(work, uninterrupted, "--export", "merged")
    assert summary == told | {"steps_run": 0, "export": summary["export"]}
    assert "it is left as it is" in said
    assert merged.stat().st_mtime_ns == written


@pytest.mark.timeout(600)  # two jobs
def test_whatever_dies_the_losses_are_those_of_an_undisturbed_run(
    work: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """A worker behind a checkpoint, which costs the steps since; then the whole job."""
    out = tmp_path / "killed"
    with started(work, out) as process:
        wait_for_step(out, 15, process)
        [worker, *_] = matching("RayTrainWorker", below(process.pid))
        os.kill(worker.pid, signal.SIGKILL)
        wait_for_step(out, 25, process)
    with highest_exported() as told:
        summary = train_llava(work / "data.jsonl", out, settings(work))
    assert {name for name, *_ in told} >= {metric.exported for metric in METRICS}
    assert told[STEP.exported, "llava"] <= STEPS
    assert summary.step == STEPS
    assert summary.steps_run <= STEPS - 2 * QUICK["save_steps"]
    assert losses(out) == pytest.approx(losses(uninterrupted), abs=1e-5)
    adapter = export_llava(Path(summary.checkpoint), tmp_path / "adapter", "adapter")
    assert adapter.directory == tmp_path / "adapter"
    assert adapter.manifest.kind == "adapter"
    assert (adapter.directory / "adapter_model.safetensors").is_file()


@contextmanager
def started(work: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, with a Ray of its own; killed at the end with all that it started."""
    process = subprocess.Popen(
        command(work, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        kill([*below(process.pid), psutil.Process(process.pid)])
        process.wait()


def test_without_a_compiler_compile_is_refused(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependency, match=r"train\.llava\.compile"):
        train_llava(work / "data.jsonl", tmp_path / "compiled", settings(work, compile=True))


def test_without_matplotlib_no_training_begins(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curve is drawn last, and wants it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    without_peft = settings(work, train_projector=True, lora={"r": 0})
    with pytest.raises(MissingDependency, match=r"'\.\[train\]'"):
        train_llava(work / "data.jsonl", tmp_path / "out", without_peft)
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_data_is_not_taken_up(work: Path, uninterrupted: Path) -> None:
    rows = (work / "data.jsonl").read_text().splitlines()[:12]
    (work / "fewer.jsonl").write_text("\n".join(rows) + "\n")
    before, told = (uninterrupted / "rejected.jsonl").stat().st_mtime_ns, []
    with pytest.raises(UsageError, match="the training data"):
        train_llava(
            work / "fewer.jsonl", uninterrupted, settings(work, steps=STEPS + 1),
            progress=lambda what, *_: told.append(what),
        )  # fmt: skip
    assert told == ["reading the data"]  # no worker was started
    assert (uninterrupted / "rejected.jsonl").stat().st_mtime_ns == before


def wait_for_step(out: Path, step: int, process: subprocess.Popen[Any]) -> None:
    """Until it has done the step, and Ray knows of a checkpoint."""
    deadline = time.monotonic() + 240
    known = out / "checkpoints" / "run" / "checkpoint_manager_snapshot.json"
    while not any(record["step"] >= step for record in read_steps(out)) or not (
        known.exists() and "checkpoint_" in known.read_text()
    ):
        assert process.poll() is None, "the job ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
