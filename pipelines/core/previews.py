"""Upright previews of pictures by content hash: what answers, pages and citations show."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.core import images


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
