"""A tiny base model, conversations about drawn shapes, and the command that trains one on the other."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from drawn_concepts import draw_shape
from shell import mmrag
from tiny_llava import save_tiny_llava

from pipelines.train.llava_config import LlavaTraining
from pipelines.train.run_log import read_steps

COLOURS = {"red": (220, 30, 40), "green": (40, 160, 60), "blue": (30, 90, 220), "black": (20, 20, 20)}
SHAPES = ("circle", "square", "triangle")
STEPS = 60
QUICK: dict[str, Any] = {
    "steps": STEPS, "save_steps": 10, "batch_size": 2, "accumulate": 2, "warm_up": 5, "learning_rate": 2e-3,
    "max_tokens": 128, "eval_fraction": 0.25, "dtype": "float32", "lora.r": 4, "lora.alpha": 8, "threads": 1,
}  # fmt: skip


def conversations(folder: Path) -> Path:
    """The folder, with the model `base` and 24 conversations in data.jsonl."""
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
    every = {"base_model": os.path.relpath(work / "base"), **QUICK, **settings}
    sets = [word for name, value in every.items() for word in ("--set", f"train.llava.{name}={value}")]
    program = str(Path(sys.executable).with_name("mmrag"))
    return [program, "train", "llava", "--data", str(work / data), "--out", str(out), "--json", *more, *sets]


def train(work: Path, out: Path, *more: str, status: int = 0, **settings: Any) -> tuple[dict[str, Any], str]:
    """The command in this process: its summary, and what it said."""
    done = mmrag(*command(work, out, *more, **settings)[1:])
    assert done.status == status, done.err[-3000:]
    summary: dict[str, Any] = json.loads(done.out)
    return summary, done.err


def losses(out: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in read_steps(out) if "loss" in record}


def settings(work: Path, dropout: float | None = None, **changed: Any) -> LlavaTraining:
    lora = {name.removeprefix("lora."): value for name, value in QUICK.items() if name.startswith("lora.")}
    lora |= {} if dropout is None else {"dropout": dropout}
    plain = {name: value for name, value in QUICK.items() if not name.startswith("lora.")}
    return LlavaTraining.model_validate({"base_model": str(work / "base"), **plain, "lora": lora, **changed})
