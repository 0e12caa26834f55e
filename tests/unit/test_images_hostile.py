"""Hostile and damaged bytes: decoded to RGB or refused as BadImage, in bounded memory, never padded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import images
from pipelines.core.errors import BadImage

# Pillow tells of odd TIFF tags in warnings, which are not what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PICTURES = sorted((Path(__file__).parent / "golden" / "pictures").iterdir())


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


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


def png(width: int, height: int, *, before: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tiff(tags: dict[int, int], data: bytes = b"") -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0, 0, 0)
        + b"!\xf9\x04\x08\0\0\0\0,"  # dispose to background: Pillow allocates the frame on opening
        + struct.pack("<HHHHB", 0, 0, *frame, 0)
        + b"\x08\x01\0\0;"
    )


def webp(width: int, height: int) -> bytes:
    frame = b"\x2f" + struct.pack("<I", (width - 1) | ((height - 1) << 14)) + bytes(21)
    return b"RIFF" + struct.pack("<I", 12 + len(frame)) + b"WEBPVP8L" + struct.pack("<I", len(frame)) + frame


def jpeg_of_scans(count: int) -> bytes:
    data = encoded(Image.new("L", (64, 64)), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last_scan * count + b"\xff\xd9"


STRIP = {258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 279: 100}
TILED = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 324: 140, 325: 100}
EXPANDING = zlib.compress(bytes(50_000_000), 9)
BOMBS = {
    "png": (png(50_000, 50_000), "50000 x 50000 pixels are above the limit of 100,000,000 pixels"),
    "png of 2^31": (png(2**31 - 1, 2**31 - 1), "2147483647 x 2147483647 pixels are above"),
    "png with zTXt": (png(4, 4, before=chunk(b"zTXt", b"k\0\0" + EXPANDING)), "damaged PNG: Decompressed"),
    "png with iTXt": (png(4, 4, before=chunk(b"iTXt", b"k\0\1\0\0\0" + EXPANDING)), "damaged PNG"),
    "png with iCCP": (png(4, 4, before=chunk(b"iCCP", b"k\0\0" + EXPANDING)), "damaged PNG"),
    "png of profiles": (png(4, 4, before=chunk(b"iCCP", b"k\0\0") * 17), "a PNG of more than 16 colour"),
    "gif screen": (gif((65535, 65535), (1, 1)), "65535 x 65535 pixels are above"),
    "gif frame": (gif((10, 10), (65535, 65535)), "the GIF declares more than the limit"),
    "webp": (webp(11_000, 11_000), "11000 x 11000 pixels are above"),
    "webp of 16383": (webp(16_383, 16_383), "the WebP declares more than the limit"),
    "bmp": (b"BM" + struct.pack("<12xIiiHH24x", 40, 50_000, 50_000, 1, 24), "50000 x 50000 pixels are above"),
    "tiff": (tiff(STRIP | {256: 50_000, 257: 50_000, 278: 50_000}), "50000 x 50000 pixels are above"),
    "tiff of 2^32": (tiff(STRIP | {256: 2**32 - 1, 257: 2**32 - 1}), "4294967295 x 4294967295"),
    "tiff tile": (tiff(TILED | {322: 60_000, 323: 60_000}, EXPANDING), "tiles of 60000 x 60000 pixels"),
    "tiff samples": (tiff(STRIP | {256: 10, 257: 10, 277: 2**32 - 1}), "damaged TIFF"),
    "tiff gaps": (tiff(STRIP | {256: 10, 257: 5_000_000, 278: 10}, bytes(500)), "truncated TIFF"),
    "jpeg of scans": (jpeg_of_scans(1000), "a JPEG of more than 100 scans"),
}  # fmt: skip


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
