"""Hostile and damaged bytes: decoded to RGB or refused as BadImage, in bounded memory, never padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bombs import BOMBS, STRIP, encoded, jpeg_of_scans, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import images
from pipelines.core.errors import BadImage

# Pillow tells of odd TIFF tags in warnings, which are not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PICTURES = sorted((Path(__file__).parent / "golden" / "pictures").iterdir())


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(images.decode(data).image)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"PK\x03\x04\x14\0", "not a picture: a ZIP archive"),
        (b"%PDF-1.7\n", "not a picture: a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not a picture: PostScript, which is a program"),
        (b"\n<!DOCTYPE html><html>", "not a picture: an HTML page"),
        (b'<?xml version="1.0"?><svg/>', "not a picture: an SVG drawing (render it to PNG first)"),
        (b'{"error": "not found"}', "not a picture: text"),
        ("钻孔间距".encode(), "not a picture: text"),
        (b"version https://git-lfs.github.com/spec/v1", "not a picture: a Git LFS pointer"),
        (b"\0\0\0\x18ftypheic", "not a picture: a HEIC picture"),
        (bytes(4096), "not a picture: zero bytes only"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"\xff\xd8\xff", "damaged JPEG"),
        (b"GIF89a", "damaged GIF"),
        (b"II*\0", "damaged TIFF"),
        (b"<!" + b"<!---->" * 80, "not a picture: text"),  # no pattern may backtrack for ever
    ],
)
def test_what_is_no_picture_is_named(data: bytes, message: str) -> None:
    with pytest.raises(BadImage) as caught:
        images.decode(data)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_bytes_are_bounded() -> None:
    with pytest.raises(BadImage, match=r"^11 bytes are above the limit of 10$"):
        images.decode(b"\xff\xd8\xff" + bytes(8), max_bytes=10)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_truncated_file_is_never_a_padded_picture(path: Path) -> None:
    data = path.read_bytes()
    whole = pixels(data)
    for cut in range(0, len(data), max(1, len(data) // 60)):
        try:
            # A file may lose what follows its (first) picture, and nothing of the picture.
            assert np.array_equal(pixels(data[:cut]), whole), f"cut at {cut} of {len(data)}"
        except BadImage:
            continue
        assert path.stem in ("animated", "pages") or cut > 0.9 * len(data)


def test_truncation_is_called_truncation() -> None:
    image = Image.effect_noise((40, 40), 64).convert("RGB")
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(image, form)
        with pytest.raises(BadImage, match=r"^(truncated|damaged TIFF)"):  # a TIFF's header is at its end
            images.decode(data[: len(data) // 2])


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_before_it_is_decoded(bomb: str) -> None:
    data, message = BOMBS[bomb]
    before_bytes = peak_memory_bytes()
    with pytest.raises(BadImage) as caught:
        images.decode(data)
    assert str(caught.value).startswith(message)
    assert peak_memory_bytes() - before_bytes < 200e6


def peak_memory_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("peak memory is read from Linux's /proc")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def test_a_progressive_jpeg_of_ordinary_scans_is_read() -> None:
    assert pixels(jpeg_of_scans(50)).shape == (64, 64, 3)


def decodes_or_is_refused(data: bytes) -> None:
    refusal = None
    try:
        picture = images.decode(data, max_pixels=1_000_000)
    except BadImage as exc:
        refusal = str(exc)
    if refusal is None:
        assert picture.image.mode == "RGB"
        assert images.resize_squashed(picture, 16).shape == (16, 16, 3)
    else:
        assert refusal
        assert "\n" not in refusal


SMALL = [path.read_bytes() for path in PICTURES if path.stat().st_size < 10_000]
MAGIC = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\xff\0\0\0WEBPVP8 ",
    b"II*\0",
    b"MM\0*",
    b"BM",
]


@settings(max_examples=400, deadline=None)
@given(magic=st.sampled_from(MAGIC), data=st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(magic: bytes, data: bytes) -> None:
    decodes_or_is_refused(magic + data)


@settings(max_examples=1500, deadline=None)
@given(
    data=st.sampled_from(SMALL),
    edits=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), min_size=1, max_size=8
    ),
    cut=st.floats(0.3, 1.3),
)
def test_damaged_pictures_decode_or_are_refused(
    data: bytes, edits: list[tuple[float, bytes]], cut: float
) -> None:
    damaged = bytearray(data)
    for place, values in edits:
        # Headers are where damage is worth most: half of the edits fall into the first 5 %.
        at = int(len(data) * (place - 0.5) * 2) if place > 0.5 else int(len(data) * place * 0.1)
        damaged[at : at + len(values)] = values
    decodes_or_is_refused(bytes(damaged[: int(len(data) * cut)]))


# Sizes, samples, strips, tiles, compression, palette, orientation: what Pillow and libtiff act upon.
TAGS = [*range(256, 260), 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, *range(322, 326), 338, 339]
VALUES = [0, 1, 2, 3, 5, 6, 7, 8, 16, 32, 100, 200, 65_535, 2**31, 2**32 - 1]


@settings(max_examples=400, deadline=None)
@given(
    tags=st.dictionaries(st.sampled_from(TAGS), st.sampled_from(VALUES)),
    data=st.binary(max_size=300),
)
def test_absurd_tiff_tags_decode_or_are_refused(tags: dict[int, int], data: bytes) -> None:
    decodes_or_is_refused(tiff(STRIP | {256: 10, 257: 10} | tags, data))
