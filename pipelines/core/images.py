"""Bytes -> upright RGB pixels, the same for ever, or BadImage. Knows nothing of files, models or stores.

What a picture *is* here, and nothing else decides it (`RULES` names these rules in the fingerprint):

- Read: JPEG (of an MPO its first picture), PNG, GIF, WebP, TIFF, BMP; of several frames or pages the first.
- Upright: EXIF orientation 1-8, applied once. Orientation in XMP is not read, as browsers do not.
- Alpha, palette transparency and colour keys are laid on white.
- Gray of more than 8 bits, and float, is linear from the narrowest of 0..1, 8, 10, 12, 14, 16 bits that
  holds all its values (else from its own minimum..maximum) to 0..255: a 12-bit X-ray in a 16-bit file
  keeps its contrast. Values that are not finite count as 0. 16-bit colour keeps its high byte.
- CMYK is R = (255 - C)(255 - K) / 255; four-channel JPEGs are inverted, as Adobe writes them. No colour
  management: embedded profiles are ignored. CIELAB is littleCMS's conversion to sRGB.
- A JPEG is decoded at 1/2, 1/4 or 1/8 where a long side of `PREVIEW_SIDE` and a short side of twice
  `REFERENCE_SIDE` remain.
- A scale is squashed to side x side: each axis is averaged in whole blocks down to no less than twice
  `REFERENCE_SIDE` (once for all scales; one above `REFERENCE_SIDE` skips this), again down to no less than
  twice the side, and resized with antialiased bicubic. So a scale's pixels do not depend on which other
  scales are asked for.

Safe in threads: no global of Pillow is set and no warning filter is touched.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipelines.core.errors import BadImage

# Part of the space fingerprint: raise the number with any change of the pixels that is meant. Pillow's
# version is not in it. tests/unit/golden/pixels.json fails first where a new Pillow changes a pixel, and
# rounding is no other space: Pillow 12 and 13 differ by one level in 0.3 % of some scales' values.
RULES = (
    "images/1: exif, white, 8-bit, adobe cmyk, jpeg draft, averaged to 2x448 and 2x side, bicubic, squashed"
)

MAX_PIXELS = 100_000_000
"""At this limit a float TIFF, the worst, takes 1.25 GB to decode; an RGB PNG takes 0.8 GB."""
MAX_BYTES = 256 * 2**20
REFERENCE_SIDE = 448
PREVIEW_SIDE = 1536

# libjpeg walks the whole picture once a scan, and a scan can be a few bytes: a small file can cost hours.
# Encoders write about ten.
_MAX_JPEG_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# A PNG has one profile. Pillow expands each one that it meets, in 2 ms and from 1 KB.
_MAX_PNG_PROFILES = 16
_PNG_END = b"IEND\xaeB`\x82"
_TIFF_PLANAR, _TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 284, 322, 323

_WHITE = (255, 255, 255)
_CLIP_MEAN = (122, 116, 104)  # OpenAI CLIP's mean (.4815, .4578, .4082) of 255, cut as LLaVA cuts it
_GRAY_TOPS = (1, 255, 1023, 4095, 16383, 65535)
_ROWS = 256  # a block of rows at a time, so that float64 does not multiply a large picture's memory

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

# What Pillow 13 raises for damaged files. The first five were met by mutating files of every format read
# here; the others are those that its plugins catch from one another.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    OverflowError,
    EOFError,
    IndexError,
    KeyError,
    struct.error,
)

_OPENERS: tuple[tuple[str, re.Pattern[bytes], Callable[[io.BytesIO], ImageFile.ImageFile]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    ("GIF", re.compile(rb"GIF8[79]a"), GifImageFile),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    ("TIFF", re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"), TiffImageFile),
    ("BMP", re.compile(rb"BM"), BmpImageFile),
)

_STRANGERS = (
    ("a ZIP archive", rb"PK(\x03\x04|\x05\x06)"),
    ("a PDF document", rb"%PDF-"),
    ("PostScript, which is a program", rb"%!|\xc5\xd0\xd3\xc6"),
    ("a Git LFS pointer (fetch the files with `git lfs pull`)", rb"version https://git-lfs"),
    ("an HTML page", rb"\s*(<!doctype html|<html|<head|<body)"),
    ("an SVG drawing (render it to PNG first)", rb"\s*<svg|\s*<[?!].*<svg"),
    ("an XML document", rb"\s*<\?xml"),
    ("an AVIF picture (convert it to PNG or JPEG)", rb".{4}ftypavi[fs]"),
    ("a HEIC picture (convert it to PNG or JPEG)", rb".{4}ftyp(hei[cx]|mif1|hev[cx])"),
    ("a video", rb".{4}ftyp|\x1aE\xdf\xa3|RIFF....AVI "),
    ("a JPEG 2000 picture (convert it to PNG or JPEG)", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("a Photoshop document", rb"8BPS"),
    ("an icon file", rb"\0\0[\1\2]\0"),
    ("a gzip archive", rb"\x1f\x8b"),
    ("a 7z archive", rb"7z\xbc\xaf"),
    ("zero bytes only", rb"\0{32,}\Z"),
    ("text", rb"[\t\n\r\x20-\x7e\xc2-\xf4][\t\n\r\x20-\x7e\x80-\xff]*\Z"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An upright RGB picture.

    `width` and `height` are those of the upright *original*: boxes are in its pixels. `image` may hold
    fewer pixels of a large JPEG, in the same proportions.
    """

    image: Image.Image
    width: int
    height: int


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Picture:
    """Decode a picture by the rules above. Raises BadImage: one line that says what is wrong with it.

    Sizes are checked from the header, before anything is decoded.
    """
    with _opened(data, max_pixels, max_bytes) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise BadImage(f"{width} x {height} pixels are above the limit of {max_pixels:,} pixels")
        if isinstance(image, TiffImageFile):
            _check_tiff(image, max_pixels)
        return _upright(image)


def extent(data: bytes, *, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """Width and height that decoding works on at once, as the header declares them: the picture's own, or
    those of a TIFF's tile where that is larger. Decodes nothing. Raises BadImage."""
    with _opened(data, MAX_PIXELS, max_bytes) as image:
        whole = image.size
        tile = _tile_size(image) if isinstance(image, TiffImageFile) else whole
        return max(whole, tile, key=lambda size: size[0] * size[1])


@contextmanager
def _opened(data: bytes, max_pixels: int, max_bytes: int) -> Iterator[ImageFile.ImageFile]:
    """The picture with its header read. What damage raises, here or where it is used, becomes BadImage."""
    if not data:
        raise BadImage("an empty file")
    if len(data) > max_bytes:
        raise BadImage(f"{len(data):,} bytes are above the limit of {max_bytes:,}")
    found = next(((name, opener) for name, magic, opener in _OPENERS if magic.match(data)), None)
    if found is None:
        raise BadImage(f"not a picture: {_stranger(data)}")
    name, opener = found
    _check_bytes(name, data)
    try:
        with opener(io.BytesIO(data)) as image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise BadImage(f"the {name} declares more than the limit of {max_pixels:,} pixels") from exc
    except _DAMAGE as exc:
        raise BadImage(_diagnosis(name, exc)) from exc


def pyramid(picture: Picture, sides: Sequence[int]) -> tuple[NDArray[np.uint8], ...]:
    """The picture squashed to each side: one (side, side, 3) uint8 RGB array a side, in the order given."""
    full = picture.image
    factors = (max(1, full.width // (2 * REFERENCE_SIDE)), max(1, full.height // (2 * REFERENCE_SIDE)))
    averaged = full if factors == (1, 1) or min(sides, default=0) > REFERENCE_SIDE else full.reduce(factors)
    # The last block of an axis may be a part of one: the box ends where the picture does.
    averaged_box = (0.0, 0.0, full.width / factors[0], full.height / factors[1])
    full_box = (0.0, 0.0, float(full.width), float(full.height))
    return tuple(
        _squash(averaged, averaged_box, side) if side <= REFERENCE_SIDE else _squash(full, full_box, side)
        for side in sides
    )


def resize_squashed(picture: Picture, side: int) -> NDArray[np.uint8]:
    """One scale of `pyramid`: (side, side, 3) uint8 RGB, nothing cropped away."""
    return pyramid(picture, (side,))[0]


def fit_square(picture: Picture, side: int, how: Literal["squash", "pad"]) -> NDArray[np.uint8]:
    """The picture in a generator's square: (side, side, 3) uint8 RGB, nothing cropped away.

    "squash" is `resize_squashed`; "pad" keeps the proportions, the long side at `side`, centred on CLIP's
    mean colour, as LLaVA-1.5 was trained. `grounding.Frame` says where a pixel of the original then lies.
    """
    if how == "squash":
        return resize_squashed(picture, side)
    shrink = side / max(picture.width, picture.height)
    size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
    square = Image.new("RGB", (side, side), _CLIP_MEAN)
    fitted = picture.image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    square.paste(fitted, ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.array(square)


def preview(picture: Picture) -> bytes:
    """A JPEG of the upright picture without metadata, its long side at most `PREVIEW_SIDE`. Its comment says
    the picture's own size: "4000x3000".

    Its pixels are for people and the generator: they are no part of the space.
    """
    shrink = min(1.0, PREVIEW_SIDE / max(picture.width, picture.height))
    size = (max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink)))
    small = picture.image
    if small.size != size:
        small = small.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=90, subsampling=0, comment=f"{picture.width}x{picture.height}")
    return out.getvalue()


def _squash(image: Image.Image, box: tuple[float, float, float, float], side: int) -> NDArray[np.uint8]:
    # reducing_gap: what is still more than twice the side is averaged in whole blocks first.
    return np.array(image.resize((side, side), Image.Resampling.BICUBIC, box, reducing_gap=2.0))


def _check_bytes(name: str, data: bytes) -> None:
    """What Pillow finds too late or not at all."""
    if name == "JPEG" and _jpeg_scans(data) > _MAX_JPEG_SCANS:
        raise BadImage(f"a JPEG of more than {_MAX_JPEG_SCANS} scans")
    if name == "PNG" and _png_profiles(data) > _MAX_PNG_PROFILES:
        raise BadImage(f"a PNG of more than {_MAX_PNG_PROFILES} colour profiles")
    if name == "PNG" and data.rfind(_PNG_END) < 0:
        raise BadImage("truncated PNG")
    if name == "WebP" and len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise BadImage("truncated WebP")


def _check_tiff(image: TiffImageFile, max_pixels: int) -> None:
    # libtiff decodes whole tiles, and a tile may be larger than its picture.
    width, length = _tile_size(image)
    if width * length > max_pixels:
        raise BadImage(f"tiles of {width} x {length} pixels are above the limit of {max_pixels:,} pixels")
    # Pillow leaves pixels that no strip covers black.
    planes = len(image.getbands()) if image.tag_v2.get(_TIFF_PLANAR) == 2 else 1
    boxes = [tile.extents for tile in image.tile if tile.extents]
    covered = sum((right - left) * (bottom - top) for left, top, right, bottom in boxes)
    if covered < image.width * image.height * (1 if image.use_load_libtiff else planes):
        raise BadImage("truncated TIFF")


def _tile_size(image: TiffImageFile) -> tuple[int, int]:
    width, length = image.tag_v2.get(_TIFF_TILE_WIDTH, 1), image.tag_v2.get(_TIFF_TILE_LENGTH, 1)
    if not isinstance(width, int) or not isinstance(length, int):
        raise BadImage("damaged TIFF: its tiles have no size")
    return width, length


def _png_profiles(data: bytes) -> int:
    profiles, position = 0, 8
    while position < len(data) and profiles <= _MAX_PNG_PROFILES:
        profiles += data[position + 4 : position + 8] == b"iCCP"
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return profiles


def _jpeg_scans(data: bytes) -> int:
    scans, position = 0, 2
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(data, position)):
        position, code = marker.end(), data[marker.start() + 1]
        if code == 0xD9:  # end of image
            break
        if code not in (0x01, 0xD8):  # these two have no length
            position += int.from_bytes(data[position : position + 2], "big")
        scans += code == 0xDA  # start of scan
    return scans


def _upright(image: ImageFile.ImageFile) -> Picture:
    _forget_xmp(image)  # before Pillow turns a TIFF by it
    width, height = image.size
    if isinstance(image, JpegImageFile):
        scale = _jpeg_scale(width, height)
        image.draft(None, (width // scale, height // scale))
    image.load()
    orientation = _orientation(image)  # Pillow has turned a TIFF already, and forgotten its orientation
    rgb = _rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    if orientation in _SIDEWAYS:
        width, height = height, width
    rgb.info.clear()  # a comment would find its way into the preview
    return Picture(rgb, width, height)


def _jpeg_scale(width: int, height: int) -> int:
    long, short = max(width, height), min(width, height)
    for scale in (8, 4, 2):
        if long // scale >= PREVIEW_SIDE and short // scale >= 2 * REFERENCE_SIDE:
            return scale
    return 1


def _forget_xmp(image: ImageFile.ImageFile) -> None:
    for key in ("xmp", "XML:com.adobe.xmp"):  # Pillow takes the orientation from here where EXIF has none
        image.info.pop(key, None)


def _orientation(image: ImageFile.ImageFile) -> int:
    _forget_xmp(image)  # a PNG's may stand behind its pixels
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:
        return 1  # the pixels are sound: a broken EXIF block is common, and no reason to refuse them
    return orientation if isinstance(orientation, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(image)).convert("RGB")
    if image.mode == "La":  # premultiplied: Pillow converts it to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        _narrow_colour_key(image)
        layer = image.convert("RGBA")
        paper = Image.new("RGB", layer.size, _WHITE)
        paper.paste(layer, mask=layer.getchannel("A"))
        return paper
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= _GRAY_TOPS[-1]:
        low, high = 0.0, float(next(top for top in _GRAY_TOPS if high <= top))
    scale = 255.0 / (high - low) if high > low else 0.0
    gray = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):
        rows = slice(row, row + _ROWS)
        gray[rows] = np.rint((values[rows].astype(np.float64) - low) * scale)
    key = image.info.get("transparency")
    if isinstance(key, int):
        gray[values == key] = 255
    return gray


def _narrow_colour_key(image: Image.Image) -> None:
    # Of 16-bit colour Pillow keeps the high bytes, but the colour key of the PNG stays as it was.
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _stranger(data: bytes) -> str:
    head = data[:512]
    for what, magic in _STRANGERS:
        if re.match(magic, head, re.DOTALL | re.IGNORECASE):
            return what
    return "no known picture format"


def _diagnosis(name: str, exc: Exception) -> str:
    reason = " ".join(str(exc).split())[:120]
    if "truncated" in reason.lower():
        return f"truncated {name}"
    if not reason or isinstance(exc.__cause__ or exc, (LookupError, TypeError, OverflowError, struct.error)):
        return f"damaged {name}: its header makes no sense"  # their texts speak of Pillow's insides
    return f"damaged {name}: {reason}"
