"""Pictures in requests and answers: data URIs, bounds, and boxes drawn on request. Fetches nothing."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from typing import Final

from pipelines.core import images
from pipelines.core.errors import UsageError
from pipelines.core.previews import Preview, annotated
from pipelines.core.types import PlacedBox
from pipelines.serve.faults import TooLarge

_HEAD = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]*)*)(;base64)?", re.IGNORECASE | re.ASCII)
_LONGEST_HEAD: Final = 200
_WANTED: Final = "data:image/png;base64,..."


def read_data_uri(uri: str, max_bytes: int) -> bytes:
    """The bytes of a picture in a data URI, not decoded yet. Raises UsageError and TooLarge.

    The size is checked before anything is copied; base64 is read strictly.
    """
    comma = uri.find(",", 0, _LONGEST_HEAD)
    head = _HEAD.fullmatch(uri[: max(comma, 0)])
    if head is None or not head[1] or not head[1].lower().startswith("image/"):
        raise UsageError(f"the picture must be a data URI such as {_WANTED}")
    if head[1].lower().startswith("image/svg"):
        raise UsageError("the picture is an SVG drawing: render it to PNG first")
    if not head[3]:
        raise UsageError(f"the picture's data URI must be in base64, as {_WANTED}")
    if (len(uri) - comma) // 4 * 3 > max_bytes + 3:
        raise too_large(max_bytes)
    try:
        data = base64.b64decode(uri[comma + 1 :], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise UsageError("the picture's base64 is damaged: it must be complete and without blanks") from exc
    if not data:
        raise UsageError("the picture's data URI is empty")
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    return data


def check_pixels(data: bytes, max_pixels: int) -> None:
    """Of a picture's bytes, from its header: nothing is decoded. Raises TooLarge and BadImage."""
    width, height = images.extent(data)
    if width * height > max_pixels:
        raise TooLarge(f"the picture has {width} x {height} pixels; send one of {max_pixels:,} at most")


def too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the picture is larger than {max_bytes:,} bytes: send a smaller one")


def annotated_uri(preview: Preview, boxes: Sequence[PlacedBox]) -> str:
    """The preview with the boxes drawn on it, as a data URI. Raises BadImage."""
    out = io.BytesIO()
    annotated(preview, boxes).save(out, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
