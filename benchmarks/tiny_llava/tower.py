"""Teach the tower of an untrained LLaVA to spell: for each patch of a page, which characters stand in it.

    python -m benchmarks.tiny_llava.tower --model DIR/untrained --out DIR/base [--steps 8000]

A page of random words and numbers tells a hundred patches at once what to see, an answer of a LLaVA only a
few characters: reading is learnt in a fraction of the time. Where the words stand is random, so no layout of
`sheets.py` is learnt here. A character is named by its embedding, and embeddings stay as they are: what the
projector says can then be read by the language model much as text is. Knows nothing of questions.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.tiny_llava.fields import FIELDS, KINDS, code
from benchmarks.tiny_llava.model import PATCH, SIDE
from benchmarks.tiny_llava.shapes import COLOURS
from benchmarks.tiny_llava.split import generator
from pipelines.demo.canvas import font
from pipelines.demo.plates import DARK, PALETTES
from pipelines.train.llava_batch import picture_shape

_TWICE = 2  # drawn larger and reduced, as sheets are
_SLOTS = 3
_SURE = 12.0  # the logit of a character told well
_PLACE = 0.1  # of the loss
_ACROSS = SIDE // PATCH
_WORDS = [word for field in FIELDS for word in (field.en.capitalize(), field.zh)]
_WORDS += [word for english, chinese in KINDS for word in (english.capitalize(), chinese)]
_DIGITS, _CAPITALS = "0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CHARACTERS = sorted({*"".join(_WORDS), *"".join(field.unit for field in FIELDS), *_DIGITS, *_CAPITALS, "-"})
_CLASS = {character: number for number, character in enumerate(_CHARACTERS, start=1)}


def page(rng: random.Random) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A picture (SIDE, SIDE, 3), and for each patch its characters' classes from left to right,
    (patches, _SLOTS), 0 where there are no more.
    """
    paper, ink, accent = rng.choice(PALETTES + DARK)
    image = Image.new("RGB", (SIDE * _TWICE, SIDE * _TWICE), paper)
    pen = ImageDraw.Draw(image)
    if rng.random() < 0.5:
        _shape(pen, rng, rng.choice((accent, COLOURS[rng.randrange(8)][2])))
    found: dict[int, list[tuple[float, int]]] = {}
    y = rng.uniform(0, 34)
    while y < SIDE * _TWICE - 34:
        size = rng.choice((24, 24, 27, 29, 29, 32))
        x = rng.uniform(2, 90)
        while (end := x + font(size).getlength(word := _word(rng))) < SIDE * _TWICE - 2:
            if rng.random() < 0.1:
                pen.rectangle((x - 4, y - 1, end + 4, y + size + 5), paper)
            pen.text((x, y), word, rng.choice((ink, ink, ink, accent)), font(size), "la")
            _note(found, word, x, y, size)
            x = end + rng.choice((12, 20, 40, 90))
        y += size + rng.choice((4, 6, 8, 12, 50))
        if rng.random() < 0.15:
            pen.line((rng.uniform(0, 100), y - 2, rng.uniform(200, 320), y - 2), accent, 3)
    labels = np.zeros((_ACROSS**2, _SLOTS), np.int64)
    for patch, characters in found.items():
        for slot, (_, number) in enumerate(sorted(characters)[:_SLOTS]):
            labels[patch, slot] = number
    return np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)), labels


def _word(rng: random.Random) -> str:
    what = rng.random()
    if what < 0.25:
        return rng.choice(_WORDS)
    if what < 0.4:
        return code(rng, "train")
    return f"{rng.randrange(10 ** rng.choice((2, 3, 3, 4, 4)))} {rng.choice(FIELDS).unit}"


def _note(found: dict[int, list[tuple[float, int]]], word: str, x: float, y: float, size: int) -> None:
    """Each character belongs to the patch that its middle lies in."""
    face = font(size)
    row = int((y + 0.72 * size) / (PATCH * _TWICE))  # the middle of a capital
    for number, character in enumerate(word):
        if character in _CLASS:
            middle = x + (face.getlength(word[:number]) + face.getlength(word[: number + 1])) / 2
            patch = min(row, _ACROSS - 1) * _ACROSS + int(middle / (PATCH * _TWICE))
            found.setdefault(patch, []).append((middle, _CLASS[character]))


def _shape(pen: ImageDraw.ImageDraw, rng: random.Random, colour: Any) -> None:
    x, y = rng.uniform(0, 240), rng.uniform(0, 240)
    box = (x, y, x + rng.uniform(40, 160), y + rng.uniform(40, 160))
    rng.choice((pen.ellipse, pen.rectangle))(box, colour)


class Pages(IterableDataset[tuple[NDArray[np.uint8], NDArray[np.int64]]]):
    """Pages without end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
        worker = torch.utils.data.get_worker_info()
        rng = generator("tower", self.seed, worker.id if worker else 0)
        while True:
            yield page(rng)


class Speller(nn.Module):
    """The tower, the projector, and what each patch's characters are: those whose embeddings the language
    model would see there. A patch's first character is told as a token of text is; of the others, and of
    nothing, the telling is learnt. So is that of the patch's row and column: boxes are made of them.
    """

    def __init__(self, model: LlavaForConditionalGeneration, characters_CD: torch.Tensor) -> None:
        """`characters_CD`: the embedding of each character."""
        super().__init__()
        width = characters_CD.shape[1]
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.register_buffer("characters_CD", characters_CD)
        self.nothing = nn.Parameter(torch.zeros(_SLOTS, 1, width))
        self.later = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(_SLOTS - 1))
        self.place = nn.Linear(width, 2 * _ACROSS)
        # As sure as it can be where the projector says just the embedding.
        self.scale = _SURE / float(characters_CD.square().sum(1).mean())

    def forward(self, pixels_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of characters (N, patches, _SLOTS, classes), and of row and column (N, patches, 2, _ACROSS)."""
        seen = self.tower(pixel_values=pixels_NCHW, output_hidden_states=True).hidden_states[-1][:, 1:]
        told = self.projector(seen)
        slots = [told, *(later(told) for later in self.later)]
        classes = [torch.cat([nothing, self.characters_CD]) for nothing in self.nothing]
        spelt = torch.stack([self.scale * one @ of.T for one, of in zip(slots, classes, strict=True)], dim=2)
        return spelt, self.place(told).unflatten(-1, (2, _ACROSS))


def character_embeddings(model: LlavaForConditionalGeneration, tokenizer: Any) -> torch.Tensor:
    """(characters, width). One of several tokens is their mean, as long as one alone."""
    rows = []
    for character in _CHARACTERS:
        ids = tokenizer(character, add_special_tokens=False)["input_ids"]
        rows.append(model.get_input_embeddings().weight[ids].detach().mean(0) * len(ids) ** 0.5)
    return torch.stack(rows)


def teach(
    model: LlavaForConditionalGeneration,
    processor: Any,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    workers: int,
) -> None:
    """Train `model`'s tower and projector in place."""
    shape = picture_shape(processor)
    mean, std = torch.tensor(shape.mean), torch.tensor(shape.std)
    torch.manual_seed(seed)
    speller = Speller(model, character_embeddings(model, processor.tokenizer))
    learning = list(speller.parameters())
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.01, fused=True)
    places = torch.cartesian_prod(torch.arange(_ACROSS), torch.arange(_ACROSS))[None]  # row, column
    pages = iter(DataLoader(Pages(seed), batch, num_workers=workers))
    warm_up, start, cpu = max(1, steps // 20), time.perf_counter(), time.process_time()
    for step in range(1, steps + 1):
        pixels_NHWC, labels = next(pages)
        pixels = ((pixels_NHWC / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, step / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            spelt, placed = speller(pixels)
        logits = spelt.float().flatten(0, 2)
        loss = functional.cross_entropy(logits, labels.flatten())
        where = places.repeat(len(pixels), 1, 1)
        loss = loss + _PLACE * functional.cross_entropy(placed.float().flatten(0, 2), where.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_([weight for weight in learning if weight.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == steps:
            written = labels.flatten() > 0
            placed_right = (placed.argmax(-1) == where).float().mean()
            right = (logits.argmax(-1) == labels.flatten())[written].float().mean()
            print(
                f"step {step}: loss {float(loss.detach()):.3f}, characters right {float(right):.3f}, "
                f"places right {float(placed_right):.3f}, "
                f"{step * batch / (time.perf_counter() - start):.0f} pages/s, "
                f"{step * batch / (time.process_time() - cpu):.0f} a CPU second",
                file=sys.stderr,
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pages")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = LlavaForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(args.model)
    teach(model, processor, args.steps, args.batch, args.learning_rate, args.seed, args.workers)
    model.to(torch.bfloat16).save_pretrained(args.out)  # `--export merged` keeps the base's type
    processor.save_pretrained(args.out)


if __name__ == "__main__":
    main()
