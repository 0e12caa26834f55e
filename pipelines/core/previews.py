"""Upright previews of pictures by content hash: what answers, pages and citations show."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlparse

from PIL import Image

from pipelines.core import images
from pipelines.core.errors import BadImage
from pipelines.core.files import replace_file
from pipelines.core.grounding import draw_boxes
from pipelines.core.types import PlacedBox, is_sha256

MAX_PREVIEW_BYTES = 8 * 2**20
"""More than its pixels take without compression."""

_LOG = logging.getLogger(__name__)
_START, _END = b"\xff\xd8", b"\xff\xd9"  # of a JPEG
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


def has_preview(root: Path, content: str) -> bool:
    """Whether the preview of the picture with this SHA-256 is there, and whole: it begins and ends as a JPEG
    does. A power cut may leave an empty file, or one of zeros."""
    path = preview_path(root, content)
    try:
        with path.open("rb") as file:
            start, size = file.read(2), file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2))
            return _is_whole(path, start, file.read())
    except FileNotFoundError:
        return False


def _is_whole(path: Path, start: bytes, end: bytes) -> bool:
    whole = (start, end) == (_START, _END)
    if not whole:
        _LOG.warning("%s is damaged: it counts for nothing", path)
    return whole


def save_preview(root: Path, content: str, picture: images.Picture) -> None:
    """Write a preview unless it is there; at once, so that no reader sees half a file."""
    if not has_preview(root, content):
        write_preview(root, content, images.preview(picture))


def write_preview(root: Path, content: str, data: bytes) -> None:
    """Write one that is made already."""
    path = preview_path(root, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)


def check_preview(data: bytes) -> None:
    """Raise BadImage unless it is a JPEG of a preview's size. Only its head is read."""
    if len(data) > MAX_PREVIEW_BYTES:
        raise BadImage(f"a preview of {len(data):,} bytes; at most {MAX_PREVIEW_BYTES:,}")
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            side = max(image.size)
    except (OSError, ValueError, Image.DecompressionBombError) as exc:
        raise BadImage("a preview that is no JPEG") from exc
    if side > images.PREVIEW_SIDE:
        raise BadImage(f"a preview of {side} pixels; at most {images.PREVIEW_SIDE}")


def read_preview(root: Path, content: str) -> Preview | None:
    """The preview of the picture with this SHA-256; None where there is none, or a damaged one."""
    path = preview_path(root, content)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not _is_whole(path, data[:2], data[-2:]):
        return None
    with Image.open(io.BytesIO(data)) as image:
        size = _SIZE.fullmatch(image.info.get("comment", b""))
        # Without the comment it was written before there was one, mostly unreduced.
        width, height = (int(size[1]), int(size[2])) if size else image.size
    return Preview(data, width, height)


def content_of(image_uri: str) -> str:
    """The content hash in a hit's `image_uri`, a preview's address on disk or on a server."""
    return PurePosixPath(urlparse(image_uri).path).stem


def preview_at(root: Path, image_uri: str) -> Preview | None:
    """The preview in `root` with the content hash of this address, whoever gave the address: nothing else is
    read."""
    try:
        content = content_of(image_uri)
    except ValueError:  # no address
        return None
    return read_preview(root, content) if is_sha256(content) else None


def preview_of(data: bytes) -> Preview:
    """Of a picture that is in no index. Raises BadImage."""
    picture = images.decode(data)
    return Preview(images.preview(picture), picture.width, picture.height)


def annotated(preview: Preview, boxes: Sequence[PlacedBox]) -> Image.Image:
    """The preview with the boxes, which are in pixels of the original, drawn on it and labelled."""
    image = images.decode(preview.data).image
    across, down = image.width / preview.original_width, image.height / preview.original_height
    scaled = [
        (x1 * across, y1 * down, x2 * across, y2 * down) for x1, y1, x2, y2 in (box.xyxy for box in boxes)
    ]
    return draw_boxes(image, scaled, [box.label for box in boxes])


def annotated_pictures(
    answer: Mapping[str, Any], own: bytes | None, root: Path
) -> Iterator[tuple[Literal["query"] | int, Image.Image | None]]:
    """Each picture that an answer (`types.answer_dict`) has boxes on, with them: "query" is `own`, the
    question's, a number the evidence's, from the previews in `root`; None where there is no such preview.
    Raises BadImage.
    """
    boxes: dict[Literal["query"] | int, list[PlacedBox]] = {}
    for box in answer["boxes"]:
        boxes.setdefault(box["image"], []).append(PlacedBox(**box))
    uris = {hit["citation_id"]: hit["image_uri"] for hit in answer["hits"]}
    for shown, placed in boxes.items():
        preview = preview_of(own or b"") if shown == "query" else read_preview(root, content_of(uris[shown]))
        yield shown, annotated(preview, placed) if preview else None
