"""Teach the tower of an untrained LLaVA to spell: which characters stand in each patch of a page, and where.

    python -m benchmarks.tiny_llava.tower --model DIR/untrained --out DIR/base [--steps 8000]

A page of random words and numbers tells a hundred patches at once what to see, an answer of a LLaVA only a
few characters: reading and boxes are learnt in a fraction of the time. A character is named by its embedding,
and embeddings stay as they are: what the projector says can then be read by the language model much as text
is. Knows nothing of questions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.tiny_llava.pages import NOTHING, SIGNS, SLOTS, Labels, page
from benchmarks.tiny_llava.split import generator
from pipelines.train.llava_batch import picture_shape
from pipelines.train.llava_config import LlavaTraining, LoraSettings
from pipelines.train.llava_loop import learning_rate, optimizers

_SURE = 12.0  # the logit of a character told well
_EDGES = 0.5  # of the loss: boxes
_KEPT = 2000  # pages to show again: drawing one takes longer than learning from it


class Pages(IterableDataset[Labels]):
    """Pages without end, each shown about `times`."""

    def __init__(self, seed: int, times: int) -> None:
        self.seed = seed
        self.times = times

    def __iter__(self) -> Iterator[Labels]:
        worker = torch.utils.data.get_worker_info()
        rng = generator("tower", self.seed, worker.id if worker else 0)
        kept: list[Labels] = []
        while True:
            new = page(rng)
            if len(kept) < _KEPT:
                kept.append(new)
            else:
                kept[rng.randrange(_KEPT)] = new
            yield new
            yield from (rng.choice(kept) for _ in range(self.times - 1))


class Speller(nn.Module):
    """The tower, the projector, and what each patch's signs are: those whose embeddings the language model
    would see there. A patch's first sign is told as a token of text is; of the others, and of nothing, the
    telling is learnt. So is that of the box of what stands there, in digits, as boxes are said.
    """

    def __init__(self, model: LlavaForConditionalGeneration, signs_CD: torch.Tensor) -> None:
        """`signs_CD`: the embedding of each sign."""
        super().__init__()
        width = signs_CD.shape[1]
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.register_buffer("signs_CD", signs_CD)
        self.nothing = nn.Parameter(torch.zeros(SLOTS, 1, width))
        self.later = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(SLOTS - 1))
        self.edges = nn.Linear(width, 4 * 2 * 10)
        # As sure as it can be where the projector says just the embedding.
        self.scale = _SURE / float(signs_CD.square().sum(1).mean())

    def forward(self, pixels_NCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of signs (N, patches, SLOTS, classes), of each edge's two digits (N, patches, 4, 2, 10)."""
        seen = self.tower(pixel_values=pixels_NCHW, output_hidden_states=True).hidden_states[-1][:, 1:]
        told = self.projector(seen)
        slots = [told, *(later(told) for later in self.later)]
        classes = [torch.cat([nothing, self.signs_CD]) for nothing in self.nothing]
        spelt = torch.stack([self.scale * one @ of.T for one, of in zip(slots, classes, strict=True)], dim=2)
        return spelt, self.edges(told).unflatten(-1, (4, 2, 10))


def sign_embeddings(model: LlavaForConditionalGeneration, tokenizer: Any) -> torch.Tensor:
    """(signs, width). One of several tokens is their mean, as long as one alone."""
    rows = []
    for sign in SIGNS:
        ids = tokenizer(sign, add_special_tokens=False)["input_ids"]
        rows.append(model.get_input_embeddings().weight[ids].detach().mean(0) * len(ids) ** 0.5)
    return torch.stack(rows)


def teach(
    model: LlavaForConditionalGeneration,
    processor: Any,
    config: LlavaTraining,
    times: int,
    workers: int,
) -> None:
    """Train `model`'s tower and projector in place."""
    shape = picture_shape(processor)
    mean, std = torch.tensor(shape.mean), torch.tensor(shape.std)
    torch.manual_seed(config.seed)
    speller = Speller(model, sign_embeddings(model, processor.tokenizer))
    speller.compile()
    learning = dict(speller.named_parameters())
    learners = optimizers(learning, config)
    pages = iter(DataLoader(Pages(config.seed, times), config.batch_size, num_workers=workers))
    start, cpu = time.perf_counter(), time.process_time()
    for step in range(1, config.steps + 1):
        pixels_NHWC, labels, boxes = next(pages)
        pixels = ((pixels_NHWC / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            spelt, edges = speller(pixels)
        logits, digits = spelt.float().flatten(0, 2), edges.float()[boxes[..., 0] != NOTHING]
        told = boxes[boxes[..., 0] != NOTHING]
        told = torch.stack([told // 10, told % 10], dim=-1)
        loss = functional.cross_entropy(logits, labels.flatten())
        loss = loss + _EDGES * functional.cross_entropy(digits.flatten(0, 2), told.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_([one for one in learning.values() if one.grad is not None], config.clip_norm)
        for learner in learners:
            for group in learner.param_groups:
                group["lr"] = learning_rate(config, step - 1)
            learner.step()
            learner.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == config.steps:
            written = labels.flatten() > 0
            right = (logits.argmax(-1) == labels.flatten())[written].float().mean()
            tens, ones = (digits.argmax(-1) == told).float().mean((0, 1))
            print(
                f"step {step}: loss {float(loss.detach()):.3f}, signs right {float(right):.3f}, "
                f"tens of edges {float(tens):.3f}, ones {float(ones):.3f}, "
                f"{step * config.batch_size / (time.perf_counter() - start):.0f} pages/s, "
                f"{step * config.batch_size / (time.process_time() - cpu):.0f} a CPU second",
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
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--times", type=int, default=4, help="that a page is shown")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw pages")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = LlavaTraining(
        steps=args.steps,
        warm_up=args.steps // 20,
        batch_size=args.batch,
        accumulate=1,
        learning_rate=args.learning_rate,
        seed=args.seed,
        train_all=True,
        lora=LoraSettings(r=0),
    )
    model = LlavaForConditionalGeneration.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation="eager"
    )  # compiled and of a hundred patches, faster than torch's fused attention on CPUs
    processor = AutoProcessor.from_pretrained(args.model)
    teach(model, processor, config, args.times, args.workers)
    model.to(torch.bfloat16).save_pretrained(args.out)  # `--export merged` keeps the base's type
    processor.save_pretrained(args.out)


if __name__ == "__main__":
    main()
