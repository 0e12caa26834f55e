"""Samples -> examples -> batches of tensors for a LLaVA. Knows nothing of the loop, Ray, or files' rows.

What a model's processor says (side, tokens a picture, mean, std) is read once into a PictureShape. Pixels are
our own (`images.fit_square`): the picture is side x side already, where a processor's resize and crop do
nothing, so training and serving see the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor

from pipelines.core import images
from pipelines.core.errors import BadImage, BadPart, UsageError
from pipelines.core.grounding import (
    Box,
    Frame,
    FrameConfig,
    convert_boxes,
    format_boxes,
    in_bounds,
    parse_boxes,
)
from pipelines.core.picture_files import read_picture
from pipelines.core.prompts import IMAGE_TOKEN, Turn, cited_before, evidence_pictures
from pipelines.train.chat_tokens import IGNORED, ChatTokens
from pipelines.train.conversations import Sample

_LENGTHS = 32
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class PictureShape:
    """What a model's pictures and padding look like. `mean` and `std` are of pixels in 0..1."""

    side: int
    tokens_per_image: int
    image_token_id: int
    pad_id: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """`input_ids` and `labels` int64 (L,), -100 where there is no loss; `pixels` uint8 (n, side, side, 3).

    `dropped_turns` counts the turns at the end that did not fit.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    id: str
    dropped_turns: int = 0


def load_processor(directory: Path) -> Any:
    """A model's tokenizer, template and picture settings. Raises UsageError where they are not there.

    Pictures are fitted by us, so the processor's own back end must not depend on what is installed.
    """
    try:
        return AutoProcessor.from_pretrained(directory, backend="pil")
    except (OSError, ValueError) as exc:
        raise UsageError(f"{directory}: its processor cannot be loaded ({exc})") from exc


def picture_shape(processor: Any) -> PictureShape:
    """Read from a LlavaProcessor. Raises UsageError for one that does not say what a picture's tokens are."""
    pictures, tokenizer = processor.image_processor, processor.tokenizer
    if getattr(processor, "patch_size", None) is None:
        raise UsageError("the model's processor has no patch_size; only LLaVA-1.5-like models can be trained")
    size = pictures.crop_size if getattr(pictures, "do_center_crop", False) else pictures.size
    side = size.get("height")
    if not side or side != size.get("width"):
        raise UsageError(f"the model's pictures are not square: {size}; set crop_size in its processor")
    image_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if image_id is None or image_id == tokenizer.unk_token_id:
        raise UsageError(f"the model's tokenizer has no token {IMAGE_TOKEN}")
    # LlavaProcessor.replace_image_token: the patches and the class token, less the one not selected.
    tokens = (side // processor.patch_size) ** 2 + processor.num_additional_image_tokens
    if processor.vision_feature_select_strategy == "default":
        tokens -= 1
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    mean, std = _normalisation(pictures)
    return PictureShape(int(side), tokens, int(image_id), int(pad or 0), mean, std)


class Prepare:
    """Sample -> Example: pictures fitted to the square, boxes in its units, turns as labelled tokens.

    Raises UsageError for a processor that cannot be trained with; a call raises BadPart for a sample whose
    picture is broken, whose box is outside its picture, or whose first question and answer are too long.
    Can be pickled with its processor.
    """

    def __init__(self, processor: Any, frame: FrameConfig, max_tokens: int) -> None:
        self.shape = picture_shape(processor)
        self.frame = frame
        self.max_tokens = max_tokens
        self.chat = ChatTokens(processor, self.shape.tokens_per_image)

    def __call__(self, sample: Sample) -> Example:
        side = self.shape.side
        pixels = np.empty((len(sample.images), side, side, 3), np.uint8)
        frames = []
        for number in range(len(sample.images)):  # one at a time: a decoded picture can have 300 MB
            picture = decoded(sample, number)
            pixels[number] = images.fit_square(picture, side, self.frame.fit)
            frames.append(self.frame.of(picture.width, picture.height))
        turns = in_frame_units(sample.turns, frames)
        tokens = self.chat(turns, self.max_tokens)
        dropped = len(turns) - tokens.turns
        return Example(tokens.input_ids, tokens.labels, pixels[: tokens.pictures], sample.id, dropped)


def decoded(sample: Sample, number: int) -> images.Picture:
    """Picture `number` (from 0) of the sample. Raises BadPart, which names it."""
    source = sample.images[number]
    data = read_picture(source)
    try:
        return images.decode(data)
    except BadImage as exc:
        name = f"picture {number + 1}" if isinstance(source, bytes) else source.name
        raise BadImage(f"{name}: {exc}") from exc


def placed_boxes(turns: Sequence[Turn], frames: Sequence[Frame]) -> Iterator[tuple[int, Frame, Box]]:
    """Every box in the text, with the number of its turn (from 1) and the frame of the picture it is of.

    A box that follows `[n]` is of evidence n's picture, where the turn before numbers its pictures so; any
    other of the last picture shown before it, else of the first. None where there are no pictures.
    """
    for number, (turn, frame_at) in enumerate(_with_frames(turns, frames), start=1):
        for found in parse_boxes(turn.text) if frames else ():
            yield from ((number, frame_at(found.start), box) for box in found.boxes)


def in_frame_units(turns: Sequence[Turn], frames: Sequence[Frame]) -> tuple[Turn, ...]:
    """The turns with every placed box in its picture's frame. Raises BadPart for one outside its picture."""
    if not frames:
        return tuple(turns)
    for number, frame, box in placed_boxes(turns, frames):
        if not in_bounds(box, frame.width, frame.height):
            where = f"turn {number}: box {format_boxes([box])} is outside its picture"
            raise BadPart(f"{where} of {frame.width} x {frame.height} pixels")
    return tuple(
        replace(turn, text=convert_boxes(turn.text, partial(_to_frame, frame_at)))
        for turn, frame_at in _with_frames(turns, frames)
    )


def collate(
    examples: Sequence[Example],
    pad_id: int,
    image_token_id: int,
    tokens_per_image: int,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> dict[str, torch.Tensor]:
    """Padded on the right to a multiple of 32: input_ids, attention_mask and labels int64 (B, L);
    pixel_values float32 (pictures of all examples, 3, side, side), absent where there is none.
    """
    for example in examples:
        wanted = len(example.pixels) * tokens_per_image
        found = int((example.input_ids == image_token_id).sum())
        assert found == wanted, f"{example.id}: {found} image tokens for {wanted} of its pictures"
    # Few lengths: on a CPU every shape has kernels of its own, and a long run's memory would grow with them.
    length = math.ceil(max(len(example.input_ids) for example in examples) / _LENGTHS) * _LENGTHS
    ids = np.full((len(examples), length), pad_id, np.int64)
    labels = np.full((len(examples), length), IGNORED, np.int64)
    mask = np.zeros((len(examples), length), np.int64)
    for row, example in enumerate(examples):
        end = len(example.input_ids)
        ids[row, :end], labels[row, :end], mask[row, :end] = example.input_ids, example.labels, 1
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    pixels_NHWC = np.concatenate([example.pixels for example in examples])
    if len(pixels_NHWC):
        # (v / 255 - mean) / std as one multiplication and one addition, of float32 from the start.
        scale = (1 / (255 * np.asarray(std))).astype(np.float32)
        shift = (np.asarray(mean) / np.asarray(std)).astype(np.float32)
        values = pixels_NHWC * scale - shift
        tensors["pixel_values"] = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
    return tensors


def _with_frames(
    turns: Sequence[Turn], frames: Sequence[Frame]
) -> Iterator[tuple[Turn, Callable[[int], Frame]]]:
    """Each turn, and what tells the frame of a box that begins at a character of it."""
    shown = 0
    cited: dict[int | None, Frame] = {}
    for turn in turns:
        yield turn, partial(_frame_at, frames, turn.text, shown, cited)
        if numbered := evidence_pictures(turn.text):
            cited = {number: frames[shown + at] for number, at in numbered.items()} if frames else {}
        shown += turn.text.count(IMAGE_TOKEN)


def _frame_at(
    frames: Sequence[Frame], text: str, shown: int, cited: Mapping[int | None, Frame], start: int
) -> Frame:
    """`shown`: the pictures of the turns before this text. `cited`: the evidence's, by number."""
    if (number := cited_before(text, start)) in cited:
        return cited[number]
    return frames[max(0, shown + text.count(IMAGE_TOKEN, 0, start) - 1)]


def _to_frame(frame_at: Callable[[int], Frame], start: int, box: Box) -> Box:
    return frame_at(start).to_frame(box)


def _normalisation(pictures: Any) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of pixels in 0..1, as the image processor's own steps have them in the end."""
    rescale = 255 * (pictures.rescale_factor if pictures.do_rescale else 1.0)
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if pictures.do_normalize:
        mean, std = pictures.image_mean, pictures.image_std
    (m_r, m_g, m_b), (s_r, s_g, s_b) = mean, std
    return (m_r / rescale, m_g / rescale, m_b / rescale), (s_r / rescale, s_g / rescale, s_b / rescale)
