"""What a question's picture shows: the whole, and by itself what lies in even surroundings, as a plate that
was photographed on a desk does. Decides by pixels alone."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from pipelines.core.images import Picture

_SIDE: Final = 128
"""Of the thumbnail that is looked at, in pixels; what follows is in its pixels, too."""
_RIM: Final = 3
_UNLIKE: Final = 24
"""Of 255, in the channel that differs most: noise and uneven light are below, another thing is above."""
_DRAWN: Final = 0.5
"""Of the rim's pixels: so many are of one colour in a drawing, and never in a photograph."""
_SHARE: Final = 0.25
"""Of a row's or a column's pixels: so many are unlike the surroundings where the subject is."""
_LEAST: Final = 32
_MOST_OF_WHOLE: Final = 0.95


def views(picture: Picture) -> tuple[Picture, ...]:
    """The whole picture, and its subject where there is one."""
    found = subject(picture)
    return (picture, found) if found else (picture,)


def subject(picture: Picture) -> Picture | None:
    """The part of the picture that even surroundings leave; None where there are none, where little stands
    out from them, and where hardly anything would be cut away.

    The surroundings have the median colour of the picture's rim, with the shades that a camera sees. A margin
    of one colour was drawn, and what it is searched among has it, too.
    """
    pixels_HWC = np.asarray(picture.image.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.int16)
    rim = np.ones((_SIDE, _SIDE), bool)
    rim[_RIM:-_RIM, _RIM:-_RIM] = False
    around = np.median(pixels_HWC[rim], axis=0)
    if (np.abs(pixels_HWC[rim] - around).max(axis=-1) <= 1).mean() > _DRAWN:
        return None
    unlike_HW = np.abs(pixels_HWC - around).max(axis=-1) > _UNLIKE
    rows, columns = (np.flatnonzero(unlike_HW.mean(axis=axis) > _SHARE) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    width, height = right - left, bottom - top
    if min(width, height) < _LEAST or width * height > _MOST_OF_WHOLE * _SIDE * _SIDE:
        return None
    full = picture.image
    across, down = full.width / _SIDE, full.height / _SIDE
    box = (round(left * across), round(top * down), round(right * across), round(bottom * down))
    cut = full.crop(box)
    return Picture(cut, cut.width, cut.height)
