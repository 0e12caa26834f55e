"""Make a flat drawing look like a photograph of a sheet of paper. Knows nothing of what is on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

_DESKS = ((116, 84, 58), (70, 76, 84), (150, 126, 98), (52, 62, 58))


@dataclass(frozen=True, slots=True)
class Shot:
    """How a photograph is taken: `tilt` is the largest corner shift as a part of the size."""

    tilt: float = 0.05
    noise: float = 4.0
    warmth: float = 0.0
    width: int = 900
    height: int = 675


def photograph(sheet: Image.Image, rng: np.random.Generator, shot: Shot) -> Image.Image:
    """The sheet on a desk, seen at an angle, unevenly lit, with a soft shadow and sensor noise."""
    width, height = shot.width, shot.height
    margin = 0.06
    fit = min(width * (1 - 2 * margin) / sheet.width, height * (1 - 2 * margin) / sheet.height)
    half_x, half_y = sheet.width * fit / 2, sheet.height * fit / 2
    square = np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)])
    shift = rng.uniform(-shot.tilt, shot.tilt, (4, 2)) * (half_x, half_y)
    corners = square * (1 - shot.tilt / 2) + shift + (width / 2, height / 2)

    desk = _desk(width, height, rng)
    shadow = _warp(Image.new("L", sheet.size, 150), corners + np.array((7, 10)), width, height)
    dark = Image.new("RGB", (width, height), (12, 10, 8))
    desk.paste(dark, (0, 0), shadow.filter(ImageFilter.GaussianBlur(9)))
    desk.paste(
        _warp(sheet, corners, width, height),
        (0, 0),
        _warp(Image.new("L", sheet.size, 255), corners, width, height),
    )
    return _develop(desk, rng, shot)


def notebook(width: int, height: int, ruling: str, rng: np.random.Generator) -> Image.Image:
    """An empty page: `ruling` is "lines", "squares" or "plain"."""
    grain = rng.normal(0, 2.2, (height, width, 1))
    page = np.array([250, 247, 238]) + grain
    if ruling in ("lines", "squares"):
        page[62::38, :] = (178, 196, 220)
    if ruling == "squares":
        page[:, 24::38] = (178, 196, 220)
    if ruling == "lines":
        page[:, 74:76] = (226, 158, 150)
    return Image.fromarray(np.clip(page, 0, 255).astype(np.uint8))


def _desk(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    colour = np.array(_DESKS[rng.integers(len(_DESKS))], dtype=np.float64)
    streaks = Image.fromarray(rng.integers(0, 255, (height // 3, 6), dtype=np.uint8))
    wood = np.asarray(streaks.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    pixels = colour * (0.86 + 0.28 * wood[..., None] / 255)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _develop(image: Image.Image, rng: np.random.Generator, shot: Shot) -> Image.Image:
    height, width = image.height, image.width
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    light = 0.92 + 0.1 * (x * np.cos(angle) + y * np.sin(angle)) - 0.05 * (x * x + y * y)
    tint = np.array([1 + shot.warmth, 1.0, 1 - shot.warmth], dtype=np.float32)
    grain = shot.noise * rng.standard_normal((height, width, 1), dtype=np.float32)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), dtype=np.float32)
    pixels = pixels * light[..., None].astype(np.float32) * tint + grain
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _warp(image: Image.Image, corners: np.ndarray, width: int, height: int) -> Image.Image:
    """Move the corners of `image` (from the upper left, clockwise) to `corners`; black elsewhere."""
    w, h = image.size
    rows, want = [], []
    for (x, y), (u, v) in zip(corners, ((0, 0), (w, 0), (w, h), (0, h)), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        want += [u, v]
    coefficients = np.linalg.solve(np.array(rows), np.array(want))
    return image.transform(
        (width, height), Image.Transform.PERSPECTIVE, tuple(coefficients), Image.Resampling.BICUBIC
    )
