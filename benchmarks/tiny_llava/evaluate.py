"""Ask a LLaVA the held-out questions that make.py wrote and count what it gets right.

    python -m benchmarks.tiny_llava.evaluate --model DIR/run/merged --data DIR [--most 500] [--json FILE]

Greedy answers of transformers; each figure with a 95 % bootstrap interval over the questions. Knows
nothing of training.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.tiny_llava.model import FRAME
from pipelines.core import images
from pipelines.core.grounding import Frame, FrameConfig, iou, parse_boxes
from pipelines.core.prompts import IMAGE_TOKEN, NO_ANSWER, cited_before, evidence_pictures, messages
from pipelines.train.conversations import BadRow, Sample, read_conversations
from pipelines.train.llava_batch import decoded, picture_shape

BOX_IOU = 0.5
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Answered:
    """One held-out question; `frames` are those of its pictures."""

    sample: Sample
    frames: tuple[Frame, ...]
    text: str

    @property
    def expected(self) -> str:
        return self.sample.turns[-1].text


@dataclass(frozen=True, slots=True)
class Figure:
    """A share of the questions, with its 95 % interval."""

    task: str
    what: str
    value: float
    low: float
    high: float
    questions: int

    def line(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]"
        return f"{self.task:26} {self.what:14} {self.value:.3f} {interval} of {self.questions:,}"


class Asker:
    """A model with its processor, answering batches greedily."""

    def __init__(self, model: Any, processor: Any, frame: FrameConfig = FRAME, batch: int = 32) -> None:
        self.model = model.eval()
        self.processor = processor
        self.shape = picture_shape(processor)
        self.frame = frame
        self.batch = batch

    def __call__(self, samples: Sequence[Sample], most_tokens: int = 96) -> list[Answered]:
        """The answer to each sample's last question, in the order given."""
        prompts = [self._prompt(sample) for sample in samples]
        by_length = sorted(range(len(samples)), key=lambda at: len(prompts[at]))
        answered: dict[int, Answered] = {}
        for first in range(0, len(samples), self.batch):
            places = by_length[first : first + self.batch]
            batch = [samples[at] for at in places]
            pictures = [[decoded(one, number) for number in range(len(one.images))] for one in batch]
            texts = self._generate([prompts[at] for at in places], pictures, most_tokens)
            for at, one, shown, text in zip(places, batch, pictures, texts, strict=True):
                frames = tuple(self.frame.of(picture.width, picture.height) for picture in shown)
                answered[at] = Answered(one, frames, text)
        return [answered[at] for at in range(len(samples))]

    def _prompt(self, sample: Sample) -> list[int]:
        text = self.processor.apply_chat_template(
            messages(sample.turns[:-1]), add_generation_prompt=True, tokenize=False
        )
        text = text.replace(IMAGE_TOKEN, IMAGE_TOKEN * self.shape.tokens_per_image)
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    @torch.inference_mode()
    def _generate(
        self, prompts: list[list[int]], pictures: list[list[images.Picture]], most_tokens: int
    ) -> list[str]:
        longest = max(map(len, prompts))
        padding = [longest - len(ids) for ids in prompts]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor(
                [[self.shape.pad_id] * pad + ids for pad, ids in zip(padding, prompts, strict=True)]
            ),
            "attention_mask": torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
        }
        fitted = [
            images.fit_square(picture, self.shape.side, self.frame.fit)
            for shown in pictures
            for picture in shown
        ]
        if fitted:
            values = (np.stack(fitted) / 255.0 - np.array(self.shape.mean)) / np.array(self.shape.std)
            inputs["pixel_values"] = torch.tensor(values.transpose(0, 3, 1, 2), dtype=self.model.dtype)
        made = self.model.generate(**inputs, do_sample=False, max_new_tokens=most_tokens)
        texts: list[str] = self.processor.tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True)
        return [text.strip() for text in texts]


def exact(answered: Answered) -> bool:
    return answered.text == answered.expected


def said(answered: Answered) -> bool:
    """Words and citation, whatever the box."""
    return without_boxes(answered.text) == without_boxes(answered.expected)


def without_boxes(text: str) -> str:
    for found in reversed(parse_boxes(text)):
        text = text[: found.start] + text[found.end :]
    return text.strip()


def refused(answered: Answered) -> bool:
    return answered.text in NO_ANSWER.values()


def well_placed(answered: Answered) -> bool:
    """Whether the first box of the answer covers the expected one with an IoU of at least BOX_IOU, in the
    picture that its citation means. Where none is expected, whether there is none."""
    found, expected = parse_boxes(answered.text), parse_boxes(answered.expected)
    if not (found and expected):
        return not (found or expected)
    shown = evidence_pictures(answered.sample.turns[-2].text)
    place, right = (
        shown.get(cited_before(text, boxes[0].start) or 0, len(answered.frames) - 1)
        for text, boxes in ((answered.text, found), (answered.expected, expected))
    )
    box = answered.frames[place].to_original(found[0].boxes[0])
    return place == right and iou(box, expected[0].boxes[0]) >= BOX_IOU


def has_chinese_is(answered: Answered) -> bool:
    """Whether 是 stands in an English sentence, for "is"."""
    return "是" in answered.text


def rows_read(answered: Answered) -> float:
    """Of the expected description's pieces, the share that the answer holds."""
    pieces = (
        answered.expected.rstrip(".。").replace("，", ",").replace("：", ",").replace(":", ",").split(",")
    )
    said = answered.text.replace("，", ",").replace("：", ",").replace(":", ",").rstrip(".。").split(",")
    heard = {piece.strip() for piece in said}
    return float(np.mean([piece.strip() in heard for piece in pieces]))


def measures(task: str) -> dict[str, Callable[[Answered], float]]:
    """What is counted of a task, by the name of its file."""
    if task.startswith("boxes"):
        return {f"IoU >= {BOX_IOU}": well_placed}
    if task.startswith("describe"):
        return {"pieces right": rows_read, "all right": exact}
    if task.startswith("evidence") and "-none-" in task:
        return {"refused": refused}
    if task.startswith("evidence"):
        boxes = {} if "-text-" in task else {f"IoU >= {BOX_IOU}": well_placed}
        slips = {"是 for is": has_chinese_is} if task.endswith("-en") else {}
        return {"exact, cited": said} | boxes | {"refused": refused} | slips
    return {"exact": exact}


def figures(task: str, answered: Sequence[Answered]) -> list[Figure]:
    rng = np.random.default_rng(0)
    made = []
    for what, measure in measures(task).items():
        values = np.array([float(measure(one)) for one in answered])
        means = values[rng.integers(0, len(values), (_RESAMPLES, len(values)))].mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        made.append(Figure(task, what, float(values.mean()), float(low), float(high), len(values)))
    return made


def read(file: Path, root: Path, most: int) -> list[Sample]:
    """Of the file's rows at most `most`, spread evenly (0: all). Raises ValueError for a bad one."""
    samples: list[Sample] = []
    for one in read_conversations(file, root):
        if isinstance(one, BadRow):
            raise ValueError(f"{file}, line {one.line}: {one.reason}")
        samples.append(one)
    step = max(1, len(samples) // most) if most else 1
    return samples[::step][: most or None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--most", type=int, default=0, help="questions a task; 0: all")
    parser.add_argument("--tasks", nargs="*", default=[], help="default: all")
    parser.add_argument("--json", type=Path, help="write figures and answers here")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = LlavaForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32)
    ask = Asker(model, AutoProcessor.from_pretrained(args.model))
    found: list[Figure] = []
    answers: dict[str, list[dict[str, str]]] = {}
    for file in sorted((args.data / "held-out").glob("*.jsonl")):
        if args.tasks and file.stem not in args.tasks:
            continue
        answered = ask(read(file, args.data, args.most))
        found += (new := figures(file.stem, answered))
        print("\n".join(figure.line() for figure in new), flush=True)
        answers[file.stem] = [
            {"id": one.sample.id, "expected": one.expected, "answer": one.text} for one in answered
        ]
    if args.json:
        report = {"figures": [asdict(figure) for figure in found], "answers": answers}
        args.json.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", "utf-8")
    if not found:
        sys.exit(f"{args.data}: no held-out file of these tasks")


if __name__ == "__main__":
    main()
