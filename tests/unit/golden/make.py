"""The golden pixels: what `pipelines.core.images` makes of every file in `pictures/`. Knows no test.

    python tests/unit/golden/make.py            rewrite pixels.json
    python tests/unit/golden/make.py pictures   draw pictures/ anew, then rewrite pixels.json

Every index holds vectors of these pixels. Rewrite them only
- with a change that is meant to change pixels and raises the number in `images.RULES`: the command refuses
  to alter a hash under the same rules and the same Pillow;
- or with a new Pillow whose scales differ by rounding alone (12 -> 13: one level in 0.3 % of the values).
  A `mean_rgb` that moves is more than rounding: keep the old Pillow, or raise the number.
A new picture may be added at any time (`pictures` keeps the files that are there: encoders change between
versions).
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, __version__

from pipelines.core import images

HERE = Path(__file__).parent
SIDES = (224, 336, 448, 512)


def measure(data: bytes) -> dict[str, Any]:
    """Hashes of a picture's pixels; the mean colour tells a small change of the pixels from a large one."""
    picture = images.decode(data)
    pixels_HWC = np.asarray(picture.image)
    scales = images.pyramid(picture, SIDES)
    return {
        "size": [picture.width, picture.height],
        "decoded": list(picture.image.size),
        "mean_rgb": [round(float(mean), 3) for mean in pixels_HWC.mean(axis=(0, 1))],
        "rgb": hashlib.sha256(pixels_HWC.tobytes()).hexdigest(),
        "scales": {
            str(side): hashlib.sha256(scale.tobytes()).hexdigest()
            for side, scale in zip(SIDES, scales, strict=True)
        },
    }


def _drawing(width: int, height: int) -> np.ndarray:
    """Gradients, a hard-edged disc and fine stripes: every kind of edge that resampling treats unlike."""
    y, x = np.mgrid[0:height, 0:width]
    drawing = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1)
    drawing[(x - width // 3) ** 2 + (y - height // 2) ** 2 < (height // 4) ** 2] = (220, 30, 40)
    drawing[(x > width * 3 // 4) & (x % 4 < 2)] = (250, 250, 10)
    return drawing.astype(np.uint8)


def _large(width: int, height: int) -> Image.Image:
    """Flat areas, cheap to store. The sizes asked for lie one pixel above a threshold of the rules."""
    drawing = np.full((height, width, 3), (40, 90, 160), np.uint8)
    drawing[: height // 2, width // 3 :] = (230, 200, 40)
    y, x = np.ogrid[0:height, 0:width]
    drawing[(x - width // 2) ** 2 + (y - height // 2) ** 2 < (height // 3) ** 2] = (200, 30, 60)
    return Image.fromarray(drawing)


def _deep_png(drawing: np.ndarray, colour_type: int, key: tuple[int, ...]) -> bytes:
    """16 bits a sample and a colour key, which Pillow reads and does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = drawing.shape[:2]
    deep = drawing.astype(np.uint16) * 256 + 17  # the low byte tells who takes the wrong one
    rows = [b"\0" + row.tobytes() for row in deep.astype(">u2")]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(f">{len(key)}H", *(value * 256 + 17 for value in key)))
        + chunk(b"IDAT", zlib.compress(b"".join(rows), 9))
        + chunk(b"IEND", b"")
    )


def _pictures() -> Iterator[tuple[str, bytes]]:
    width, height = 41, 29  # odd on purpose: no multiple of a JPEG block or a block average
    drawing = _drawing(width, height)
    rgb, gray = Image.fromarray(drawing), Image.fromarray(drawing[..., 2])
    alpha = Image.fromarray(np.linspace(0, 255, width * height).reshape(height, width).astype(np.uint8))
    rgba, la = rgb.copy(), gray.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = rgb.quantize(16)
    deep = drawing[..., 2].astype(np.uint16)
    sideways = Image.Exif()
    sideways[0x0112] = 6

    def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
        out = io.BytesIO()
        image.copy().save(out, form, **options)  # a copy: saving leaves an encoder's settings behind
        return out.getvalue()

    yield "rgb.jpg", encoded(rgb, "JPEG", quality=80)
    yield "gray.jpg", encoded(gray, "JPEG")
    yield "progressive.jpg", encoded(rgb, "JPEG", progressive=True, subsampling=0)
    yield "cmyk.jpg", encoded(rgb.convert("CMYK"), "JPEG")
    yield "exif-6.jpg", encoded(rgb, "JPEG", exif=sideways)
    yield "large.jpg", encoded(_large(3073, 1793), "JPEG", quality=60, progressive=True, exif=sideways)
    yield "rgb.png", encoded(rgb, "PNG")
    yield "rgba.png", encoded(rgba, "PNG")
    yield "gray-alpha.png", encoded(la, "PNG")
    yield "gray-key.png", encoded(gray, "PNG", transparency=120)
    yield "rgb-key.png", encoded(rgb, "PNG", transparency=(220, 30, 40))
    yield "palette.png", encoded(palette, "PNG")
    yield "palette-alpha.png", encoded(palette, "PNG", transparency=bytes(range(0, 256, 16)))
    yield "palette-key.png", encoded(palette, "PNG", transparency=3)
    yield "one-bit.png", encoded(gray.convert("1"), "PNG")
    yield "gray-16.png", encoded(Image.fromarray(deep * 257), "PNG")
    yield "gray-12-in-16.png", encoded(Image.fromarray(deep * 16), "PNG")
    yield "rgb-16-key.png", _deep_png(drawing, colour_type=2, key=(220, 30, 40))
    yield "gray-16-key.png", _deep_png(drawing[..., :1], colour_type=0, key=(220,))
    yield "exif-6.png", encoded(rgb, "PNG", exif=sideways)
    yield "animated.png", encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)])
    yield "large.png", encoded(_large(2689, 1001), "PNG")
    yield "tall.png", encoded(_large(37, 4001), "PNG")
    yield "animated.gif", encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(180)])
    yield "transparent.gif", encoded(palette, "GIF", transparency=3)
    yield "lossy.webp", encoded(rgb, "WEBP", quality=80)
    yield "alpha.webp", encoded(rgba, "WEBP", quality=80)
    yield "lossless-exif-6.webp", encoded(rgb, "WEBP", lossless=True, exif=sideways)
    yield "animated.webp", encoded(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(180)])
    yield "lzw.tiff", encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "jpeg.tiff", encoded(rgb, "TIFF", compression="jpeg")
    yield "fax.tiff", encoded(gray.convert("1"), "TIFF", compression="group4")
    yield (
        "pages.tiff",
        encoded(rgb, "TIFF", save_all=True, append_images=[gray.copy()], compression="tiff_lzw"),
    )
    yield "exif-6.tiff", encoded(rgb, "TIFF", exif=sideways, compression="tiff_adobe_deflate")
    yield "rgba.tiff", encoded(rgba, "TIFF", compression="tiff_lzw")
    yield "cmyk.tiff", encoded(rgb.convert("CMYK"), "TIFF", compression="tiff_lzw")
    yield "palette.tiff", encoded(palette, "TIFF", compression="tiff_lzw")
    yield "gray-16-big-endian.tiff", encoded(Image.fromarray((deep * 257).astype(">u2")), "TIFF")
    yield "gray-32.tiff", encoded(Image.fromarray(deep.astype(np.int32) * 8_000_000 - 7), "TIFF")
    yield "float.tiff", encoded(Image.fromarray(deep.astype(np.float32) / 255), "TIFF")
    yield "rgb.bmp", encoded(rgb, "BMP")
    yield "palette.bmp", encoded(palette, "BMP")


def _draw() -> None:
    (HERE / "pictures").mkdir(exist_ok=True)
    for name, data in _pictures():
        if not (path := HERE / "pictures" / name).exists():
            path.write_bytes(data)


def _rewrite() -> None:
    path = HERE / "pixels.json"
    now = {file.name: measure(file.read_bytes()) for file in sorted((HERE / "pictures").iterdir())}
    before = json.loads(path.read_text()) if path.exists() else {"rules": None, "pictures": {}}
    changed = [name for name, golden in before["pictures"].items() if now.get(name) != golden]
    made_by = {"rules": images.RULES, "written_with": f"pillow {__version__}"}
    if changed and made_by.items() <= before.items():
        sys.exit(f"the pixels of {', '.join(changed)} changed: raise the number in images.RULES first")
    golden = made_by | {"pictures": now}
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["pictures"]:
        _draw()
    _rewrite()
