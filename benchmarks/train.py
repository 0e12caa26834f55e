"""Fine-tuning against a bare PyTorch + PEFT loop, one worker against two, and gradient checkpointing.

    python benchmarks/train.py [--pairs 5] [--steps 30]

A LLaVA of 21 million random weights, LoRA r 64 on seven projections, batches of 4, float32, answers of about
200 tokens. The bare loop is what one would write by hand: peft's wrapper, a DataLoader with one process that
reads and tokenises, AdamW, clipping. Both leave out their first step, and with it all start-up. What two
workers could reach at most here is what two bare loops do side by side, which share nothing but the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import ratio
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_llava import save_tiny_llava

BATCH, ROWS, WORDS = 4, 256, 40
SETTINGS = {"batch_size": BATCH, "accumulate": 1, "eval_fraction": 0, "dtype": "float32", "max_tokens": 512}


def write_data(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(ROWS):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        answer = " ".join(str(word) for word in rng.integers(1000, 9999, WORDS))
        turns = [{"from": "human", "value": "<image>\nRead it."}, {"from": "gpt", "value": answer}]
        rows.append(json.dumps({"id": str(number), "image": f"{number}.png", "conversations": turns}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def job(work: Path, steps: int, **settings: Any) -> dict[str, Any]:
    """The summary of `mmrag train llava`."""
    every = {"base_model": work / "base", "steps": steps, "save_steps": steps, **SETTINGS, **settings}
    sets = [word for name, value in every.items() for word in ("--set", f"train.llava.{name}={value}")]
    program = Path(sys.executable).with_name("mmrag")
    with tempfile.TemporaryDirectory() as out:
        command = [program, "train", "llava", "--data", work / "data.jsonl", "--out", out, "--json", *sets]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        summary: dict[str, Any] = json.loads(done.stdout)
        return summary


def rate(work: Path, steps: int, **settings: Any) -> float:
    """Tokens a second of the job."""
    return float(job(work, steps, gradient_checkpointing=False, **settings)["tokens_per_s"])


def bare_loops(work: Path, steps: int, threads: int, count: int = 1) -> float:
    """Tokens a second of `count` loops side by side, each in a fresh process."""
    command = [sys.executable, __file__, "--bare", work, "--steps", steps, "--threads", threads]
    loops = [
        subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(count)
    ]
    rates = []
    for loop in loops:
        told, _ = loop.communicate()
        if loop.returncode:
            raise SystemExit(f"the bare loop failed: run {' '.join(map(str, command))}")
        rates.append(float(told.splitlines()[-1]))
    return sum(rates)


def run_bare(work: Path, steps: int, threads: int) -> float:
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import DataLoader
    from transformers import LlavaForConditionalGeneration

    from pipelines.core.grounding import FrameConfig
    from pipelines.train.conversations import ConversationFile
    from pipelines.train.llava_batch import Prepare, load_processor
    from pipelines.train.llava_feed import to_batch

    torch.set_num_threads(threads)
    model = LlavaForConditionalGeneration.from_pretrained(work / "base", dtype=torch.float32)
    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    model = get_peft_model(model, LoraConfig(r=64, lora_alpha=128, lora_dropout=0.05, target_modules=targets))
    model.train()
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=2e-4, weight_decay=0.01, fused=True)
    prepare = Prepare(load_processor(work / "base"), FrameConfig(), SETTINGS["max_tokens"])
    rows = ConversationFile(work / "data.jsonl")
    loader = DataLoader(
        range(steps * BATCH),  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=1,
        collate_fn=lambda places: to_batch(
            [prepare(s) for s in rows.read([p % ROWS for p in places])], prepare
        ),
    )
    start, tokens = 0.0, 0
    for number, batch in enumerate(loader):
        batch.pop("ids")
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number == 0:
            start = time.perf_counter()
        else:
            tokens += int(batch["attention_mask"].sum())
    return tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(run_bare(arguments.bare, arguments.steps, arguments.threads))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_tiny_llava(work / "base", hidden=512, layers=8)
        write_data(work)
        runs: dict[str, Callable[[], float]] = {
            "bare loop, 1 thread": lambda: bare_loops(work, arguments.steps, 1),
            "job, 1 thread": lambda: rate(work, arguments.steps, threads=1),
            "bare loop, 2 threads": lambda: bare_loops(work, arguments.steps, 2),
            "job, 2 threads": lambda: rate(work, arguments.steps, threads=2),
            "two bare loops, 1 thread each": lambda: bare_loops(work, arguments.steps, 1, count=2),
            "job, 2 workers of 1 thread": lambda: rate(work, arguments.steps, threads=1, num_workers=2),
        }
        found: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(arguments.pairs):
            for name, run in runs.items():
                found[name].append(run())
            print(
                "tokens/s: " + ", ".join(f"{name} {rates[-1]:.0f}" for name, rates in found.items()),
                flush=True,
            )
        for one, other in (
            ("job, 1 thread", "bare loop, 1 thread"),
            ("job, 2 threads", "bare loop, 2 threads"),
            ("job, 2 workers of 1 thread", "job, 1 thread"),
            ("two bare loops, 1 thread each", "bare loop, 1 thread"),
        ):
            print(f"{one} / {other}: {ratio(found[one], found[other])}", flush=True)
        large = {"batch_size": 16, "lora.dropout": 0}
        for checkpointing in (False, True):
            found = job(work, 3, **large, gradient_checkpointing=checkpointing)
            name = "with" if checkpointing else "without"
            peak = f"peak {found['peak_memory_mb']:.0f} MiB"
            print(f"{name} gradient checkpointing: {peak}, last loss {found['loss']}", flush=True)


if __name__ == "__main__":
    main()
