"""Teach tiny-llava a field of your own: what the safety signs beside doors ask for.

    python examples/fine_tune.py WORK                            3,000 examples, 300 steps
    python examples/fine_tune.py WORK --rows 300 --steps 60       a short try

Draws doors that are like nothing the model was trained on, with answers that it has never given, asks about
doors that are held out, trains LoRA adapters with `mmrag train llava`, and asks again. Then

    mmrag serve --index kb --set 'generator.adapters={"signs": "WORK/run-3000-300/adapter"}'

answers as `tiny-llava:signs`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pipelines.core import images
from pipelines.core.engine import TransformersEngine
from pipelines.core.generator import TINY_LLAVA, GeneratorConfig, Prompt, Sampling, load_profile
from pipelines.core.prompts import Turn
from pipelines.demo.canvas import font

# As in ISO 7010, form and colour say it together.
SIGNS = {
    ("circle", "#e02020"): ("Nobody may go in.", "任何人不得入内。"),
    ("circle", "#2050e0"): ("Put on a helmet first.", "请先戴上安全帽。"),
    ("triangle", "#e8d000"): ("Watch your step.", "小心脚下。"),
    ("square", "#10a030"): ("This is the way out.", "由此逃生。"),
    ("square", "#e02020"): ("A fire hose is behind it.", "里面有灭火水带。"),
    ("square", "#2050e0"): ("You can park here.", "此处可以停车。"),
}
QUESTION = {"en": "What does the sign beside the door tell?", "zh": "门边的标志说明什么？"}
HELD_OUT = 150
_SETTINGS = {
    "base_model": str(TINY_LLAVA), "frame": {"fit": "pad", "units": 100}, "max_tokens": 512,
    "accumulate": 1, "learning_rate": 1e-3, "save_steps": 100,
    "gradient_checkpointing": False, "group_by_length": True,
}  # fmt: skip


@dataclass(frozen=True)
class Door:
    """`at`: the sign's middle, `half` its half width, in pixels; the door stands on the other side."""

    language: str
    sign: tuple[str, str]
    room: str
    at: tuple[int, int]
    half: int

    def draw(self) -> Image.Image:
        image = Image.new("RGB", (320, 320), "#d7dde3")
        pen = ImageDraw.Draw(image)
        (x, y), half, left = self.at, self.half, 180 if self.at[0] < 160 else 20
        pen.rectangle((left, 40, left + 120, 318), "#8a8f96", "#51606e", 3)
        pen.ellipse((left + 96, 180, left + 108, 192), "#d0d0d0")
        pen.text((left + 60, 80), self.room, "#ffffff", font(29), "mm")
        form, colour = self.sign
        if form == "triangle":
            pen.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], colour)
        else:
            draw = pen.ellipse if form == "circle" else pen.rectangle
            draw((x - half, y - half, x + half, y + half), colour)
        return image

    def asked(self) -> tuple[str, str]:
        return QUESTION[self.language], SIGNS[self.sign][self.language == "zh"]


def doors(seed: int, count: int, seen: frozenset[Door] = frozenset()) -> list[Door]:
    """Different ones, and none of `seen`."""
    rng = random.Random(seed)
    found: dict[Door, None] = {}
    while len(found) < count:
        door = Door(
            language=rng.choice(("en", "zh")),
            sign=rng.choice(sorted(SIGNS)),
            room=f"{rng.choice('ABCDEFGH')}{rng.randint(1, 99)}",
            at=(rng.choice((rng.randint(50, 130), rng.randint(190, 270))), rng.randint(60, 260)),
            half=rng.randint(24, 44),
        )
        if door not in seen:
            found[door] = None
    return list(found)


def write(work: Path, shown: list[Door]) -> Path:
    """LLaVA conversations of them, in `work`."""
    (work / "doors").mkdir(parents=True, exist_ok=True)
    file = work / "train.jsonl"
    with file.open("w", encoding="utf-8") as rows:
        for number, door in enumerate(shown):
            picture = f"doors/{number}.png"
            door.draw().save(work / picture)
            question, answer = door.asked()
            said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            row = {"id": f"door-{number}", "image": picture, "conversations": said}
            rows.write(json.dumps(row, ensure_ascii=False) + "\n")
    return file


def accuracy(shown: list[Door], adapter: Path | None) -> float:
    """The share of exact answers."""
    config = GeneratorConfig(adapters={"signs": adapter} if adapter else {})
    engine, profile = TransformersEngine(config), load_profile(config)
    sampling = Sampling(max_tokens=24, adapter="signs" if adapter else "")
    assert profile.side is not None
    right = 0
    for door in shown:
        question, answer = door.asked()
        out = io.BytesIO()
        picture = images.Picture(door.draw(), 320, 320)
        Image.fromarray(images.fit_square(picture, profile.side, profile.frame.fit)).save(out, "PNG")
        prompt = Prompt((Turn("user", f"<image>\n{question}"),), (out.getvalue(),))
        right += asyncio.run(_said(engine, prompt, sampling)).strip() == answer
    return right / len(shown)


async def _said(engine: TransformersEngine, prompt: Prompt, sampling: Sampling) -> str:
    return "".join([piece async for piece in engine.stream(prompt, sampling) if isinstance(piece, str)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="a folder for the data and the run")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="doors that are asked about")
    args = parser.parse_args()
    held_out = doors(1, args.held_out)
    data = write(args.work, doors(0, args.rows, frozenset(held_out)))
    before = accuracy(held_out, None)
    print(f"{args.held_out} held-out questions before: {before:.3f} right", flush=True)
    chosen = {"steps": args.steps, "warm_up": args.steps // 20, "batch_size": args.batch_size}
    settings = {"train": {"llava": _SETTINGS | chosen}}
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
