"""The real fine-tuning job on a tiny LLaVA: its command, two workers, and runs that were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from drawn_concepts import draw_shape
from tiny_llava import save_tiny_llava

from pipelines.core.errors import UsageError
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_job import train_llava
from pipelines.train.run_log import read_steps

pytestmark = pytest.mark.slow
COLOURS = {"red": (220, 30, 40), "green": (40, 160, 60), "blue": (30, 90, 220), "black": (20, 20, 20)}
SHAPES = ("circle", "square", "triangle")
STEPS = 120
KILL_AFTER = 45  # steps: behind the second checkpoint
QUICK = {
    "steps": STEPS, "save_steps": 20, "batch_size": 2, "accumulate": 2, "warm_up": 5, "learning_rate": 2e-3,
    "max_tokens": 128, "eval_fraction": 0.25, "dtype": "float32", "lora.r": 4, "lora.alpha": 8, "threads": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model and 24 conversations about drawn shapes."""
    folder = tmp_path_factory.mktemp("llava")
    save_tiny_llava(folder / "base")
    rows = []
    for number, (name, colour) in enumerate(list(COLOURS.items()) * 6):
        shape = SHAPES[number % 3]
        draw_shape(shape, colour).save(folder / f"{number}.png")
        said = [
            {"from": "human", "value": "<image>\nWhich colour?"},
            {"from": "gpt", "value": name},
            {"from": "human", "value": "形状?"},
            {"from": "gpt", "value": shape},
        ]
        rows.append({"id": f"s{number}", "image": f"{number}.png", "conversations": said})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def command(work: Path, out: Path, *more: str, data: str = "data.jsonl", **settings: Any) -> list[str]:
    every = {"base_model": work / "base", **QUICK, **settings}
    sets = [word for name, value in every.items() for word in ("--set", f"train.llava.{name}={value}")]
    program = str(Path(sys.executable).with_name("mmrag"))
    return [program, "train", "llava", "--data", str(work / data), "--out", str(out), "--json", *more, *sets]


def train(work: Path, out: Path, *more: str, **settings: Any) -> dict[str, Any]:
    done = subprocess.run(command(work, out, *more, **settings), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def losses(out: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_steps(out) if "loss" in record}


@pytest.fixture(scope="module")
def uninterrupted(work: Path) -> Path:
    out = work / "whole"
    summary = train(work, out, "--export", "merged")
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
    assert judged == [20, 40, 60, 80, 100, 120]

    from transformers import LlavaForConditionalGeneration

    LlavaForConditionalGeneration.from_pretrained(uninterrupted / "merged")


def test_a_run_that_was_killed_goes_on_with_the_same_losses(
    work: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command(work, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for_step(out, KILL_AFTER, process)
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        if one.is_running():
            one.kill()
    process.wait()
    summary = train(work, out)
    assert summary["step"] == STEPS
    assert summary["steps_run"] < STEPS
    assert losses(out) == pytest.approx(losses(uninterrupted), abs=1e-5)


def test_a_lost_worker_costs_the_steps_since_the_last_checkpoint(
    work: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lost"
    with subprocess.Popen(command(work, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_step(out, 25, process)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "RayTrainWorker" in " ".join(child.cmdline())
        ]
        assert workers
        os.kill(workers[0].pid, signal.SIGKILL)
        printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    summary = json.loads(printed)
    assert summary["step"] == STEPS
    assert summary["steps_run"] < STEPS
    assert losses(out) == pytest.approx(losses(uninterrupted), abs=1e-5)


def test_bad_rows_are_counted_and_the_rest_is_trained_on(work: Path, tmp_path: Path) -> None:
    rows = (work / "data.jsonl").read_text().splitlines()[:12]
    (work / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    long = [{"from": "human", "value": "<image>\n" + "q" * 500}, {"from": "gpt", "value": "a"}]
    bad = [
        {"id": "gone", "image": "gone.png", "conversations": turns},
        {"id": "broken", "image": "broken.png", "conversations": turns},
        {"id": "long", "image": "0.png", "conversations": long},
        {"id": "marks", "conversations": turns},
    ]
    (work / "mixed.jsonl").write_text("\n".join([*map(json.dumps, bad), *rows]) + "\n")
    out = tmp_path / "mixed"
    done = subprocess.run(
        command(work, out, data="mixed.jsonl", steps=4, eval_fraction=0),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr[-3000:]
    assert json.loads(done.stdout)["rejected"] == 4
    refused = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {row["id"]: row["line"] for row in refused} == {"gone": 1, "broken": 2, "long": 3, "marks": 4}


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """A Ray of this process, for jobs that need none of their own. Comes last: others kill theirs."""
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


def settings(work: Path, dropout: float | None = None, **changed: Any) -> LlavaTraining:
    lora = {name.removeprefix("lora."): value for name, value in QUICK.items() if name.startswith("lora.")}
    lora |= {} if dropout is None else {"dropout": dropout}
    plain = {name: value for name, value in QUICK.items() if not name.startswith("lora.")}
    return LlavaTraining.model_validate({"base_model": str(work / "base"), **plain, "lora": lora, **changed})


@pytest.mark.usefixtures("one_ray")
def test_two_workers_learn_what_one_learns(work: Path, tmp_path: Path) -> None:
    """Without dropout, whose draws belong to a micro-batch, the number of workers changes nothing."""
    one = settings(work, steps=4, accumulate=4, save_steps=4, dropout=0)
    two = settings(work, steps=4, accumulate=2, save_steps=4, dropout=0, num_workers=2)
    train_llava(work / "data.jsonl", tmp_path / "one", one)
    train_llava(work / "data.jsonl", tmp_path / "two", two)
    train_llava(work / "data.jsonl", tmp_path / "sharded", two.model_copy(update={"strategy": "fsdp"}))
    alone = losses(tmp_path / "one")
    assert sorted(alone) == [1, 2, 3, 4]
    assert losses(tmp_path / "two") == pytest.approx(alone, abs=1e-5)
    assert losses(tmp_path / "sharded") == pytest.approx(alone, abs=1e-4)


@pytest.mark.usefixtures("one_ray")
def test_a_run_of_other_data_is_not_taken_up(work: Path, uninterrupted: Path) -> None:
    rows = (work / "data.jsonl").read_text().splitlines()[:12]
    (work / "fewer.jsonl").write_text("\n".join(rows) + "\n")
    with pytest.raises(UsageError, match="the training data"):
        train_llava(work / "fewer.jsonl", uninterrupted, settings(work, steps=STEPS + 1))


def wait_for_step(out: Path, step: int, process: subprocess.Popen[Any]) -> None:
    """Until it has done the step and, where one is due before it, Ray knows of a checkpoint."""
    deadline = time.monotonic() + 240
    known = out / "checkpoints" / "run" / "checkpoint_manager_snapshot.json"
    while not any(record["step"] >= step for record in read_steps(out)) or (
        step > QUICK["save_steps"] and not (known.exists() and "checkpoint_" in known.read_text())
    ):
        assert process.poll() is None, "the job ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
