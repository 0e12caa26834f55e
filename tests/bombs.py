"""Pictures of few bytes that would cost much to decode, and why each is refused. Written byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


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
