"""The real fine-tuning job on a tiny LLaVA: rows that cannot be used, and several workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from llava_run import conversations, losses, settings, train

from pipelines import train_llava

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("roomy_ray")]

FEW = {"steps": 4, "save_steps": 4, "eval_fraction": 0}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With twelve good rows and five others in mixed.jsonl."""
    work = conversations(tmp_path_factory.mktemp("llava"))
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
    return work


@pytest.fixture(scope="module")
def alone(work: Path) -> tuple[dict[str, Any], Path]:
    """What one worker's run told, and its folder."""
    out = work / "alone"
    chosen = FEW | {"accumulate": 4, "lora.dropout": 0}
    summary, _ = train(work, out, status=3, data="mixed.jsonl", **chosen)
    return summary, out


def test_bad_rows_are_counted_and_the_rest_is_trained_on(alone: tuple[dict[str, Any], Path]) -> None:
    summary, out = alone
    assert (summary["rejected"], summary["shortened"]) == (4, 1)
    refused = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    lines = {"gone": 1, "broken": 2, "long": 3, "marks": 4, "talkative": 5}
    assert {row["id"]: row["line"] for row in refused} == lines
    assert [row["id"] for row in refused if row["dropped_turns"]] == ["talkative"]
    assert sorted(losses(out)) == [1, 2, 3, 4]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_workers_learn_what_one_learns(
    alone: tuple[dict[str, Any], Path], work: Path, tmp_path: Path, strategy: str
) -> None:
    """Without dropout, whose draws belong to a micro-batch, the number of workers changes nothing; nor who of
    them meets a bad row."""
    two = settings(work, **FEW, accumulate=2, dropout=0, num_workers=2, strategy=strategy)
    train_llava(work / "mixed.jsonl", tmp_path / "two", two)
    wanted = losses(alone[1])
    assert losses(tmp_path / "two") == pytest.approx(wanted, abs=1e-5 if strategy == "ddp" else 1e-4)
