"""The real fine-tuning job on a tiny LLaVA: several workers, and rows that cannot be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from llava_run import conversations, losses, settings, train

from pipelines import train_llava
from pipelines.core.ray_runtime import ray_runtime

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Which each job else starts for itself."""
    with ray_runtime(cpus=4):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return conversations(tmp_path_factory.mktemp("llava"))


def test_bad_rows_are_counted_and_the_rest_is_trained_on(work: Path, tmp_path: Path) -> None:
    rows = (work / "data.jsonl").read_text().splitlines()[:12]
    (work / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    long = [{"from": "human", "value": "<image>\n" + "q" * 500}, {"from": "gpt", "value": "a"}]
    more = [{"from": "human", "value": "q" * 500}, {"from": "gpt", "value": "a"}]
    bad = [
        {"id": "gone", "image": "gone.png", "conversations": turns},
        {"id": "broken", "image": "broken.png", "conversations": turns},
        {"id": "long", "image": "0.png", "conversations": long},
        {"id": "marks", "conversations": turns},
        {"id": "talkative", "image": "0.png", "conversations": turns + more},
    ]
    (work / "mixed.jsonl").write_text("\n".join([*map(json.dumps, bad), *rows]) + "\n")
    out = tmp_path / "mixed"
    summary, _ = train(work, out, status=3, data="mixed.jsonl", steps=4, eval_fraction=0)
    assert (summary["rejected"], summary["shortened"]) == (4, 1)
    refused = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    lines = {"gone": 1, "broken": 2, "long": 3, "marks": 4, "talkative": 5}
    assert {row["id"]: row["line"] for row in refused} == lines
    assert [row["id"] for row in refused if row["dropped_turns"]] == ["talkative"]


@pytest.mark.timeout(600)  # three jobs
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
