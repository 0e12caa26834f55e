"""Pictures decode to the same upright RGB pixels for ever, or to BadImage."""

from __future__ import annotations

import io
import json
import platform
import runpy
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.core import images

GOLDEN = Path(__file__).parent / "golden"
PICTURES = sorted((GOLDEN / "pictures").iterdir())
measure = runpy.run_path(str(GOLDEN / "make.py"))["measure"]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(images.decode(data).image)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# --- golden pixels


def test_the_golden_file_is_of_these_rules() -> None:
    assert json.loads((GOLDEN / "pixels.json").read_text())["rules"] == images.RULES


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_golden_pixels(path: Path) -> None:
    golden = json.loads((GOLDEN / "pixels.json").read_text())["pictures"][path.name]
    now = measure(path.read_bytes())
    if platform.machine() not in ("x86_64", "AMD64"):
        # Decoding is integer arithmetic; Pillow's resize rounds coefficients of the machine's doubles.
        del now["scales"], golden["scales"]
    assert now == golden, "see golden/make.py before changing pixels.json"


def test_lossless_formats_hold_the_same_pixels() -> None:
    golden = json.loads((GOLDEN / "pixels.json").read_text())["pictures"]
    same = ("rgb.png", "rgb.bmp", "lzw.tiff", "pages.tiff", "animated.png", "cmyk.tiff")
    assert len({golden[name]["rgb"] for name in same}) == 1
    assert len({golden[f"exif-6.{form}"]["rgb"] for form in ("png", "tiff")}) == 1
    assert golden["rgb-16-key.png"]["rgb"] == golden["rgb-key.png"]["rgb"]
    deep = ("gray-16.png", "gray-16-big-endian.tiff", "float.tiff")
    assert len({golden[name]["rgb"] for name in deep}) == 1


# --- upright

# The stored array of each orientation whose upright picture is `upright` (EXIF 2.3, 4.6.4 A).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_gives_the_same_upright_picture(form: str, orientation: int) -> None:
    upright = noise(7, 11)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    options = {"lossless": True} if form == "WEBP" else {}
    picture = images.decode(encoded(stored, form, exif=exif(orientation), **options))
    assert (picture.width, picture.height) == (11, 7)
    assert np.array_equal(np.asarray(picture.image), upright)


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_turned_once_and_without_loss(orientation: int) -> None:
    plain = pixels(encoded(Image.fromarray(noise(16, 24)), "JPEG"))
    turned = pixels(encoded(Image.fromarray(noise(16, 24)), "JPEG", exif=exif(orientation)))
    assert np.array_equal(STORED[orientation](turned), plain)


def test_orientation_in_xmp_is_not_read() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    image = Image.fromarray(noise(8, 16))
    text = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + xmp
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    png, end = encoded(image, "PNG"), 12  # bytes of the IEND chunk
    files = {
        "JPEG": encoded(image, "JPEG", xmp=xmp),
        "WebP": encoded(image, "WEBP", xmp=xmp),
        "TIFF": encoded(image, "TIFF", tiffinfo={700: xmp}),
        "PNG, behind the pixels": png[:-end] + chunk + png[-end:],
    }
    for name, data in files.items():
        assert images.decode(data).image.size == (16, 8), name


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_not_cost_the_picture() -> None:
    picture = images.decode(encoded(Image.fromarray(noise(8, 16)), "PNG", exif=b"II*\0\xff\xff\xff\xff"))
    assert (picture.width, picture.height) == (16, 8)


# --- colour


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0, (255, 255, 255)), (255, (200, 100, 0)), (51, (244, 224, 204))],  # 255 - 0.2 * (55, 155, 255)
)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_laid_on_white(form: str, alpha: int, expected: tuple[int, int, int]) -> None:
    image = Image.new("RGBA", (2, 2), (200, 100, 0, alpha))
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    assert pixels(encoded(image, form, **options))[0, 0].tolist() == list(expected)


def test_gray_with_alpha_is_laid_on_white() -> None:
    assert pixels(encoded(Image.new("LA", (1, 1), (0, 51)), "PNG")).tolist() == [[[204, 204, 204]]]


def test_palette_transparency_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for data in (
        encoded(image, "PNG", transparency=1),
        encoded(image, "PNG", transparency=b"\xff\x00"),
        encoded(image, "GIF", transparency=1),
    ):
        assert pixels(data).tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize(
    ("dtype", "values", "gray"),
    [
        ("uint16", [0, 257, 65535], [0, 1, 255]),  # 16 bits: v / 257
        ("uint16", [0, 1365, 4095], [0, 85, 255]),  # 12 bits in 16
        ("uint16", [0, 85, 255], [0, 85, 255]),  # 8 bits in 16
        ("uint16", [0, 1, 1], [0, 255, 255]),  # a mask
        (">u2", [0, 257, 65535], [0, 1, 255]),
        ("int32", [0, 257, 65535], [0, 1, 255]),
        ("int32", [-1000, 0, 3000], [0, 64, 255]),  # 63.75
        ("int32", [7, 7, 7], [7, 7, 7]),
        ("int32", [-7, -7, -7], [0, 0, 0]),  # no range, no contrast
        ("float32", [0.0, 0.2, 1.0], [0, 51, 255]),
        ("float32", [0.0, 51.0, 255.0], [0, 51, 255]),
        ("float32", [-1.0, 0.0, 3.0], [0, 64, 255]),
        ("float32", [np.nan, 0.2, np.inf], [0, 51, 0]),
        ("float32", [-3e38, 0, 3e38], [0, 128, 255]),
    ],
)
def test_deep_gray_is_linear_from_the_narrowest_range_that_holds_it(
    dtype: str, values: list[float], gray: list[int]
) -> None:
    decoded = pixels(encoded(Image.fromarray(np.array([values], dtype)), "TIFF"))
    assert decoded.tolist() == [[[level] * 3 for level in gray]]


def test_cmyk_needs_no_profile() -> None:
    # (255 - C)(255 - K) / 255: 155 * 204 / 255 = 124
    image = Image.new("CMYK", (8, 8), (100, 0, 255, 51))
    assert pixels(encoded(image, "TIFF"))[0, 0].tolist() == [124, 204, 0]
    as_adobe_writes_it = pixels(encoded(image, "JPEG", quality=100))[0, 0].astype(int)
    assert np.abs(as_adobe_writes_it - (124, 204, 0)).max() <= 1


def test_of_many_frames_the_first() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(first, form, save_all=True, append_images=[second], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], form


# --- scales and preview


@pytest.mark.parametrize("size", [(50, 31), (900, 2000), (1801, 1793), (4100, 300), (5000, 1), (1, 3)])
def test_a_scale_does_not_depend_on_the_others(size: tuple[int, int]) -> None:
    picture = images.decode(encoded(Image.fromarray(noise(size[1], size[0])), "BMP"))
    for side, scale in zip((224, 336, 448, 600), images.pyramid(picture, (224, 336, 448, 600)), strict=True):
        assert scale.shape == (side, side, 3)
        assert scale.dtype == np.uint8
        assert np.array_equal(scale, images.resize_squashed(picture, side))


@pytest.mark.parametrize("size", [(1000, 700), (2000, 1500), (2699, 1799), (1793, 400)])
def test_the_shared_average_stays_near_a_direct_resize(size: tuple[int, int]) -> None:
    smooth = Image.fromarray(noise(30, 40)).resize(size, Image.Resampling.BICUBIC)
    picture = images.decode(encoded(smooth, "BMP"))
    for side, scale in zip((224, 336, 448), images.pyramid(picture, (224, 336, 448)), strict=True):
        direct = np.asarray(smooth.resize((side, side), Image.Resampling.BICUBIC))
        assert np.abs(scale.astype(int) - direct).max() <= 4


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((1535, 3000), (1535, 3000)),
        ((3071, 3071), (3071, 3071)),  # a half would be shorter than a preview
        ((3072, 1792), (1536, 896)),
        ((3072, 1791), (3072, 1791)),  # a half would be too low for the largest scale
        ((6144, 3585), (1536, 897)),
        ((9000, 900), (9000, 900)),
    ],
)
def test_a_large_jpeg_is_decoded_small_and_keeps_its_size(
    size: tuple[int, int], decoded: tuple[int, int]
) -> None:
    picture = images.decode(encoded(Image.new("L", size), "JPEG"))
    assert (picture.width, picture.height) == size
    assert picture.image.size == decoded


def test_a_preview_is_upright_small_and_tells_nothing() -> None:
    tags = exif(6)
    tags[0x010E] = "taken at home"
    data = encoded(Image.fromarray(noise(1000, 2000)), "JPEG", exif=tags, comment=b"secret", dpi=(300, 300))
    preview = images.preview(images.decode(data))
    with Image.open(io.BytesIO(preview)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (768, 1536), "RGB")
        assert not image.getexif()
        assert all(h == v == 1 for _, h, v, _ in image.layer)  # 4:4:4
    assert b"secret" not in preview
    assert b"home" not in preview


def test_a_small_picture_is_not_enlarged_for_its_preview() -> None:
    picture = images.decode(encoded(Image.new("RGB", (30, 20)), "PNG"))
    assert images.decode(images.preview(picture)).image.size == (30, 20)


def test_threads_agree() -> None:
    data = [path.read_bytes() for path in PICTURES]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(measure, data * 3)) == [measure(item) for item in data] * 3


# --- a generator's square

MEAN = [122, 116, 104]


def test_padding_keeps_the_proportions_and_centres_the_picture() -> None:
    picture = images.decode(encoded(Image.new("RGB", (60, 30), "red"), "PNG"))
    square = images.fit_square(picture, 20, "pad")
    assert square.shape == (20, 20, 3)
    assert square.dtype == np.uint8
    assert (square[5:15] == (255, 0, 0)).all()
    assert (np.concatenate([square[:5], square[15:]]) == MEAN).all()


@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (7, 7), (3, 2)])
def test_padding_loses_no_side_however_thin(size: tuple[int, int]) -> None:
    picture = images.decode(encoded(Image.new("RGB", size, "red"), "PNG"))
    square = images.fit_square(picture, 32, "pad")
    red = (square == (255, 0, 0)).all(axis=2)
    assert red.any(axis=0).sum() == max(1, round(32 * size[0] / max(size)))
    assert red.any(axis=1).sum() == max(1, round(32 * size[1] / max(size)))


def test_squashing_is_the_index_scale() -> None:
    picture = images.decode(encoded(Image.fromarray(noise(31, 50)), "PNG"))
    assert np.array_equal(images.fit_square(picture, 48, "squash"), images.resize_squashed(picture, 48))


def test_a_jpeg_that_was_decoded_small_is_padded_by_its_own_size() -> None:
    picture = images.decode(encoded(Image.new("RGB", (6144, 3585), "red"), "JPEG"))
    assert picture.image.width < picture.width
    square = images.fit_square(picture, 64, "pad")
    assert (square == MEAN).all(axis=2).all(axis=1).sum() == 64 - 37  # 64 * 3585 / 6144 = 37.3
