"""The real fine-tuning job on a tiny LLaVA: rows that cannot be used, and several workers."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
from llava_run import conversations, losses, settings, train

from pipelines import train_llava
from pipelines.train.llava_batch import Prepare, load_processor
from pipelines.train.llava_feed import LoadExamples, loaded, places, to_batch
from pipelines.train.llava_loop import Loop
from pipelines.train.llava_model import load_base, prepare_trainable
from pipelines.train.llava_plan import make_plan

pytestmark = pytest.mark.slow

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


def alone(work: Path) -> dict[int, float]:
    """The losses of one worker in this process: the loop and its feed, without Ray."""
    config = settings(work, **FEW, accumulate=4, dropout=0)
    part = make_plan(work / "mixed.jsonl", config).train
    prepare = Prepare(load_processor(work / "base"), config.frame, config.max_tokens)
    loop = Loop(prepare_trainable(load_base(config, "cpu"), config), config)
    wanted = places(part, config, 0, 0, 1, prepare.shape.tokens_per_image)
    read, size = LoadExamples(part, lambda: prepare), config.batch_size
    tables = (read(wanted.slice(first, size)) for first in range(0, len(wanted), size))
    batches = (to_batch(loaded(table, prepare.shape.side)[0], prepare) for table in tables)
    return {
        step: loop.step(list(islice(batches, config.accumulate))).loss for step in range(1, config.steps + 1)
    }


def test_two_workers_learn_what_one_learns(work: Path, roomy_ray: None, tmp_path: Path) -> None:
    """Without dropout, whose draws belong to a micro-batch, the number of workers changes nothing; nor who of
    them meets a bad row. Each is counted once, and the rest is trained on."""
    wanted = alone(work)
    assert sorted(wanted) == [1, 2, 3, 4]
    two = FEW | {"accumulate": 2, "num_workers": 2, "lora.dropout": 0}
    summary, _ = train(work, tmp_path / "ddp", status=3, data="mixed.jsonl", **two)
    assert losses(tmp_path / "ddp") == pytest.approx(wanted, abs=1e-5)
    assert (summary["rejected"], summary["shortened"]) == (4, 1)
    refused = [json.loads(line) for line in (tmp_path / "ddp" / "rejected.jsonl").read_text().splitlines()]
    lines = {"gone": 1, "broken": 2, "long": 3, "marks": 4, "talkative": 5}
    assert {row["id"]: row["line"] for row in refused} == lines
    assert [row["id"] for row in refused if row["dropped_turns"]] == ["talkative"]

    sharded = settings(work, **FEW, accumulate=2, dropout=0, num_workers=2, strategy="fsdp")
    train_llava(work / "mixed.jsonl", tmp_path / "fsdp", sharded)
    assert losses(tmp_path / "fsdp") == pytest.approx(wanted, abs=1e-4)
