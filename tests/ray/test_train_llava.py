"""The real fine-tuning job on a tiny LLaVA: its command, and runs that were killed and go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
from llava_run import QUICK, STEPS, command, conversations, losses, settings, train
from ray_metrics_port import highest_exported
from shell import mmrag

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


def test_an_export_that_fails_takes_no_summary_with_it(work: Path, uninterrupted: Path) -> None:
    told = json.loads((uninterrupted / "summary.json").read_text())
    (uninterrupted / "adapter").write_text("mine")
    summary, said = train(work, uninterrupted, "--export", "adapter", status=2)
    assert summary == told | {"steps_run": 0}
    assert "adapter is there already and not empty" in said
    assert (uninterrupted / "adapter").read_text() == "mine"


def test_a_finished_run_whose_steps_are_raised_is_taken_up(
    work: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And replaces its export; what else stands in that place is refused before."""

    def begins(**resources: object) -> NoReturn:
        raise InterruptedError

    monkeypatch.setattr(llava_job, "ray_runtime", begins)
    shutil.copytree(uninterrupted, tmp_path / "run")
    more = settings(work, steps=STEPS + 2)
    with pytest.raises(InterruptedError):
        train_llava(work / "data.jsonl", tmp_path / "run", more, export="merged")
    (tmp_path / "run" / "merged" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"files beside the export, such as 'mine\.txt'"):
        train_llava(work / "data.jsonl", tmp_path / "run", more, export="merged")


def test_held_out_rows_that_are_all_unusable_end_a_run_before_its_first_step(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(llava_job, "ray_runtime")  # a worker would be wanted
    turns = [{"from": "human", "value": "q" * 500}, {"from": "gpt", "value": "a"}]
    (tmp_path / "val.jsonl").write_text(json.dumps({"id": "long", "conversations": turns}) + "\n")
    earlier = {tmp_path / "out" / name: name for name in ("summary.json", "rejected.jsonl")}
    (tmp_path / "out").mkdir()
    for file, text in earlier.items():
        file.write_text(text)
    done = mmrag(*command(work, tmp_path / "out", eval_data=tmp_path / "val.jsonl")[1:])
    assert done.status == 2
    assert (
        f"{tmp_path / 'val.jsonl'}: none of the 1 rows to evaluate on can be used; line 1: has 5" in done.err
    )
    assert {file: file.read_text() for file in (tmp_path / "out").iterdir()} == earlier


def test_an_export_that_has_no_place_ends_a_run_before_its_first_step(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(llava_job, "ray_runtime")
    (tmp_path / "out" / "merged").mkdir(parents=True)
    (tmp_path / "out" / "merged" / "mine.txt").write_text("mine")
    done = mmrag(*command(work, tmp_path / "out", "--export", "merged")[1:])
    assert done.status == 2
    assert "out/merged is there already and not empty: move it away" in done.err
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["merged", "mine.txt"]


@pytest.mark.parametrize(
    "changed", [{"group_by_length": True}, {"image_root": "."}, {"eval_data": "data.jsonl"}]
)
def test_a_run_that_reads_or_compares_other_samples_is_not_taken_up(
    work: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(UsageError, match=f"these differ: .*{next(iter(changed))}"):
        train_llava(work / "data.jsonl", uninterrupted, settings(work, **changed))


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
