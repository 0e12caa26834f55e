"""The perceptual hash of a picture: 64 signs of its coarse structure, alike where pictures look alike.

The DCT hash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), as
phash.org has it: of the 32 x 32 grey picture's two-dimensional DCT-II the 8 x 8 lowest frequencies but those
of 0, each above or below their median. Scaling, another compression and slight changes of brightness keep
it; cropping, turning and mirroring do not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 32
BITS = 64
RULES = "perceptual/1"
"""The version of the hash, for its cache."""

_LOW = 8
_GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# A wave of one grey level has a coefficient of 16: below it there is nothing but noise to tell the sign of.
_MIN_COEFFICIENT = 16.0
# Rows 1 to 8 of the orthonormal DCT-II matrix.
_DCT = np.sqrt(2 / SIDE) * np.cos(
    np.pi / SIDE * np.outer(np.arange(1, _LOW + 1), np.arange(SIDE) + 0.5)
)  # (8, 32)


def signs(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(32, 32, 3) RGB -> 64 values of 1 and -1; all 0 for a picture without structure, which is like none."""
    low = _DCT @ (pixels @ _GREY) @ _DCT.T
    if np.abs(low).max() < _MIN_COEFFICIENT:
        return np.zeros(BITS, np.float32)
    return np.where(low > np.median(low), 1, -1).astype(np.float32).ravel()


def packed(signs_: NDArray[np.float32]) -> int | None:
    """The signs as one number of 64 bits; None for a picture without structure."""
    if not signs_.any():
        return None
    return int.from_bytes(np.packbits(signs_ > 0).tobytes(), "big")
