"""OCR of one picture: its lines of text with their boxes. Knows no corpus and no cache.

`none` reads nothing; `rapidocr` is PP-OCRv6 small, Chinese and English.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import images
from pipelines.core.errors import BadReading, MissingDependency, UsageError, install_line
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.plain import tidy
from pipelines.core.types import Line

RULES = "ocr/1"
"""The version of these rules, for the fingerprints: raise it with any change of what is read."""

NEEDS = f"ocr.kind 'rapidocr' needs: {install_line('ocr')}"
# Named one by one, for what is not named rapidocr fetches from the network. They are inside its wheel.
_MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",  # of lines that stand on their head, or run upwards
    "Rec": "PP-OCRv6_rec_small.onnx",
}
_READABLE_SIDE = 736  # the detector misses small print in pictures of a smaller short side


class Engine(Protocol):
    def read(self, pixels_HWC: NDArray[np.uint8]) -> list[Line]:
        """The lines in RGB pixels, boxes in these, in any order. Raises BadReading."""


def require(config: OcrConfig) -> None:
    """Raise MissingDependency where what the settings ask for is not installed."""
    if config.kind == "rapidocr":
        _model_paths()


def read_lines(config: OcrConfig, data: bytes) -> tuple[Line, ...]:
    """What is kept of a picture that is in no corpus, in reading order. Raises UsageError where the settings
    name no reader, MissingDependency, BadImage, and BadReading where the reader fails on it."""
    if config.kind == "none":
        raise UsageError("ingest.ocr.kind is none: set it to rapidocr to have pictures read")
    lines = read_picture(load_engine(config.max_side), images.decode(data), config.max_side)
    return tuple(chosen(lines, config)[0])


def words_reader(config: OcrConfig) -> Callable[[bytes], str] | None:
    """What gives the words in a picture, as `read_lines` its lines; None where the settings name no reader.
    Raises MissingDependency."""
    if config.kind == "none":
        return None
    require(config)
    return lambda data: " ".join(line.text for line in read_lines(config, data))


def chosen(lines: Sequence[Line], config: OcrConfig) -> tuple[list[Line], int]:
    """The lines that are sure enough, as far as `max_chars` reaches, and how many more there are."""
    sure = [line for line in lines if line.confidence >= config.min_confidence]
    room = config.max_chars
    for count, line in enumerate(sure):
        room -= len(line.text)
        if room < 0:
            return sure[:count], len(sure) - count
    return sure, 0


def read_picture(engine: Engine, picture: images.Picture, max_side: int) -> tuple[Line, ...]:
    """The picture's lines in reading order, boxes in pixels of its upright original. Raises BadReading."""
    shown = _fitted(picture.image, max_side)
    across, down = picture.width / shown.width, picture.height / shown.height
    return tuple(_placed(reading_order(engine.read(np.asarray(shown))), across, down))


def _placed(lines: Sequence[Line], across: float, down: float) -> Iterator[Line]:
    for line in lines:
        left, top, right, bottom = line.xyxy
        box = (
            round(left * across, 1),
            round(top * down, 1),
            round(right * across, 1),
            round(bottom * down, 1),
        )
        # As a chunk writes it, so that a chunk's lines are found among these.
        if text := tidy(line.text):
            yield Line(text, box, round(line.confidence, 4))


def _fitted(image: Image.Image, max_side: int) -> Image.Image:
    """Enlarged where its short side is too small to be read, and never longer than `max_side`."""
    scale = min(max_side / max(image.size), max(1.0, _READABLE_SIDE / min(image.size)))
    if scale == 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def reading_order(lines: Sequence[Line]) -> list[Line]:
    """Row by row from the top, each from the left. Two of a row share more than half of the taller's height.

    A table's label comes before its value; two columns of running text are read across, which is wrong.
    """
    rows: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.xyxy[1]):
        if rows and _is_beside(rows[-1][0], line):
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line.xyxy[0])]


def _is_beside(one: Line, other: Line) -> bool:
    (_, top, _, bottom), (_, its_top, _, its_bottom) = one.xyxy, other.xyxy
    shared = min(bottom, its_bottom) - max(top, its_top)
    return shared > max(bottom - top, its_bottom - its_top) / 2


def reader_name(config: OcrConfig) -> str:
    """What decides the reading of a picture."""
    return f"{config.kind} {_version()}, {RULES}, {config.max_side}"


def _version() -> str:
    try:
        return version("rapidocr")
    except PackageNotFoundError as exc:
        raise MissingDependency(NEEDS) from exc


def _model_paths() -> dict[str, Path]:
    """Where the models are. Raises MissingDependency; fetches nothing."""
    package = find_spec("rapidocr")
    if package is None or package.origin is None or find_spec("onnxruntime") is None:
        raise MissingDependency(NEEDS)
    paths = {step: Path(package.origin).parent / "models" / name for step, name in _MODELS.items()}
    for path in paths.values():
        if not path.is_file():
            raise MissingDependency(f"{NEEDS} ({path} is missing, and mmrag fetches no models)")
    return paths


@cache
def load_engine(max_side: int) -> Engine:
    """The engine of this process. Raises MissingDependency."""
    return RapidEngine(max_side)


class RapidEngine:
    """PP-OCRv6 small by RapidOCR, on one thread: one picture after the other."""

    def __init__(self, max_side: int) -> None:
        paths = _model_paths()
        try:
            import cv2
            from rapidocr import RapidOCR
            from rapidocr.inference_engine.onnxruntime.main import ONNXRuntimeError
        except ImportError as exc:
            raise MissingDependency(f"{NEEDS}, on every node ({exc})") from exc
        cv2.setNumThreads(1)
        self._turn = threading.Lock()
        # What RapidOCR's steps raise on a picture that they cannot work on.
        self._failures = (ONNXRuntimeError, cv2.error, ArithmeticError, LookupError, TypeError, ValueError)
        # Its call may give one of four things; with all its steps on, it is always RapidOCROutput.
        self._engine: Callable[[NDArray[np.uint8]], Any] = RapidOCR(
            params={f"{step}.model_path": str(path) for step, path in paths.items()}
            | {
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Global.log_level": "critical",  # it warns of every picture without text
                "Global.text_score": 0.0,  # `min_confidence` chooses later
                "Global.use_preprocess_img": False,  # `_fitted` is, and bounds thin strips too
                "Det.limit_type": "max",
                "Det.limit_side_len": max_side,
                "Rec.rec_batch_num": 1,  # more are no faster on one thread, and take more memory
            }
        )

    def read(self, pixels_HWC: NDArray[np.uint8]) -> list[Line]:
        try:
            with self._turn:
                found = self._engine(np.ascontiguousarray(pixels_HWC[:, :, ::-1]))
        except self._failures as exc:
            raise BadReading(f"OCR failed ({type(exc).__name__}: {str(exc)[-200:]!r})") from exc
        if found.boxes is None:
            return []
        return [
            Line(text, _around(corners), float(score))
            for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True)
        ]


def _around(corners: NDArray[np.float32]) -> tuple[float, float, float, float]:
    """The upright box around a line that may stand askew."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
