"""Upright previews of pictures by content hash: what answers, pages and citations show."""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.core import images

_SIZE = re.compile(rb"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Preview:
    """A JPEG of an upright picture, and the size in pixels of the original, upright too."""

    data: bytes
    original_width: int
    original_height: int


def preview_path(root: Path, content: str) -> Path:
    """Where the preview of the picture with this SHA-256 is kept."""
    return root / content[:2] / f"{content}.jpg"


def save_preview(root: Path, content: str, picture: images.Picture) -> None:
    """Write a preview unless it is there; at once, so that no reader sees half a file."""
    path = preview_path(root, content)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{content}.{os.getpid()}")
    beside.write_bytes(images.preview(picture))
    beside.replace(path)


def read_preview(root: Path, content: str) -> Preview | None:
    """The preview of the picture with this SHA-256; None where there is none."""
    try:
        data = preview_path(root, content).read_bytes()
    except FileNotFoundError:
        return None
    with Image.open(io.BytesIO(data)) as image:
        size = _SIZE.fullmatch(image.info.get("comment", b""))
        # Without the comment it was written before there was one, mostly unreduced.
        width, height = (int(size[1]), int(size[2])) if size else image.size
    return Preview(data, width, height)
