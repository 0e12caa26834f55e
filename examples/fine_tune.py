"""Teach tiny-llava a field of your own: which machines of a control panel to stop, by their lamps.

    python examples/fine_tune.py WORK                            3,000 examples, 600 steps
    python examples/fine_tune.py WORK --rows 200 --steps 20       a short try

Draws panels that are like nothing the model was trained on, with answers that it has never given, asks about
panels that are held out, trains LoRA adapters with `mmrag train llava`, and asks again. Then

    mmrag serve --index kb --set 'generator.adapters={"panel": "WORK/run-3000-600/adapter"}'

answers as `tiny-llava:panel`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.core import images
from pipelines.core.engine import TransformersEngine
from pipelines.core.generator import TINY_LLAVA, GeneratorConfig, Prompt, Sampling, load_profile
from pipelines.core.prompts import Turn
from pipelines.demo.canvas import font

MACHINES = {
    "pump": "水泵",
    "fan": "风扇",
    "motor": "电机",
    "screw": "螺丝",
    "magnet": "磁铁",
    "bearing": "轴承",
}
LAMPS = {
    "#e02020": ("Stop it now.", "马上停机。"),
    "#e8d000": ("Check it today.", "今天检查。"),
    "#10a030": ("Leave it running.", "继续运转。"),
}
QUESTION = {"en": "What is to be done about the {machine}?", "zh": "{machine}该怎么办？"}
HELD_OUT = 150
_SETTINGS = {
    "base_model": str(TINY_LLAVA), "frame": {"fit": "pad", "units": 100}, "max_tokens": 512,
    "batch_size": 16, "accumulate": 1, "learning_rate": 1e-3, "warm_up": 20, "save_steps": 200,
    "gradient_checkpointing": False, "group_by_length": True,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """`lamps`: of each machine the colour, from top to bottom."""

    language: str
    lamps: tuple[tuple[str, str], ...]

    def draw(self) -> Image.Image:
        image = Image.new("RGB", (320, 320), "#d7dde3")
        pen = ImageDraw.Draw(image)
        for row, (machine, colour) in enumerate(self.lamps):
            y = 44 + 72 * row
            pen.rectangle((14, y - 30, 306, y + 30), "#f7f7f7", "#51606e", 2)
            pen.ellipse((28, y - 22, 72, y + 22), colour, "#51606e", 2)
            pen.text((92, y), self._name(machine).capitalize(), "#101820", font(29), "lm")
        return image

    def asked(self) -> Iterator[tuple[str, str]]:
        for machine, colour in self.lamps:
            question = QUESTION[self.language].format(machine=self._name(machine))
            yield question, LAMPS[colour][self.language == "zh"]

    def _name(self, machine: str) -> str:
        return MACHINES[machine] if self.language == "zh" else machine


def panels(seed: int, count: int, seen: frozenset[Panel] = frozenset()) -> list[Panel]:
    """Different ones, and none of `seen`."""
    rng = random.Random(seed)
    found: dict[Panel, None] = {}
    while len(found) < count:
        machines = rng.sample(sorted(MACHINES), rng.choice((3, 4)))
        panel = Panel(
            rng.choice(("en", "zh")), tuple((machine, rng.choice(sorted(LAMPS))) for machine in machines)
        )
        if panel not in seen:
            found[panel] = None
    return list(found)


def write(work: Path, shown: list[Panel]) -> Path:
    """LLaVA conversations of them, in `work`."""
    (work / "panels").mkdir(parents=True, exist_ok=True)
    file = work / "train.jsonl"
    with file.open("w", encoding="utf-8") as rows:
        for number, panel in enumerate(shown):
            picture = f"panels/{number}.png"
            panel.draw().save(work / picture)
            said = [
                {"from": who, "value": text}
                for pair in panel.asked()
                for who, text in zip(("human", "gpt"), pair, strict=True)
            ]
            said[0]["value"] = "<image>\n" + said[0]["value"]
            row = {"id": f"panel-{number}", "image": picture, "conversations": said}
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
    return file


def accuracy(shown: list[Panel], adapter: Path | None) -> float:
    """The share of exact answers, one question a panel."""
    config = GeneratorConfig(adapters={"panel": adapter} if adapter else {})
    engine, profile = TransformersEngine(config), load_profile(config)
    sampling = Sampling(max_tokens=16, adapter="panel" if adapter else "")
    assert profile.side is not None
    right = 0
    for number, panel in enumerate(shown):
        question, answer = list(panel.asked())[number % 3]
        out = io.BytesIO()
        picture = images.Picture(panel.draw(), 320, 320)
        Image.fromarray(images.fit_square(picture, profile.side, profile.frame.fit)).save(out, "PNG")
        prompt = Prompt((Turn("user", f"<image>\n{question}"),), (out.getvalue(),))
        right += asyncio.run(_said(engine, prompt, sampling)).strip() == answer
    return right / len(shown)


async def _said(engine: TransformersEngine, prompt: Prompt, sampling: Sampling) -> str:
    return "".join([piece async for piece in engine.stream(prompt, sampling)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="a folder for the data and the run")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="panels that are asked about")
    args = parser.parse_args()
    held_out = panels(1, args.held_out)
    data = write(args.work, panels(0, args.rows, frozenset(held_out)))
    before = accuracy(held_out, None)
    print(f"{args.held_out} held-out questions before: {before:.3f} right", flush=True)
    settings = {"train": {"llava": _SETTINGS | {"steps": args.steps}}}
    (args.work / "settings.yaml").write_text(json.dumps(settings), "utf-8")  # JSON is YAML
    run = args.work / f"run-{args.rows}-{args.steps}"
    command = ["train", "llava", "--data", data, "--out", run, "--export", "adapter"]
    mmrag = Path(sys.executable).with_name("mmrag")
    subprocess.run(
        [mmrag, *command, "--config", args.work / "settings.yaml"], check=True, stdout=subprocess.DEVNULL
    )
    after = accuracy(held_out, run / "adapter")
    print(f"after {args.steps} steps of LoRA on {args.rows:,} examples: {after:.3f} right")


if __name__ == "__main__":
    main()
