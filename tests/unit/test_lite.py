"""The packaged `lite` encoder: contract, speed of a text query's imports, and that it sees and reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pipelines.core import images
from pipelines.core.encoder import Encoder, EncoderConfig, load_encoder
from pipelines.core.errors import OutOfMemory, UsageError
from pipelines.core.lite import CONFIG_FILE, HEADS_FILE, PACKAGED, LiteEncoder, raw_features

MAX_WEIGHTS_BYTES = 10 * 2**20
WHITE = (255, 255, 255)


@pytest.fixture(scope="module")
def encoder() -> LiteEncoder:
    return LiteEncoder.load()


def canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (160, 160), WHITE)
    return image, ImageDraw.Draw(image)


def drawings() -> dict[tuple[str, str], Image.Image]:
    """Plain drawings and their names in English and Chinese."""
    circle, draw = canvas()
    draw.ellipse((20, 20, 140, 140), fill=(220, 30, 40))
    square, draw = canvas()
    draw.rectangle((25, 25, 135, 135), fill=(30, 90, 220))
    clock, draw = canvas()
    draw.ellipse((15, 15, 145, 145), fill=WHITE, outline=(0, 0, 0), width=9)
    draw.line((80, 80, 80, 32), fill=(0, 0, 0), width=6)
    draw.line((80, 80, 112, 80), fill=(0, 0, 0), width=8)
    smile, draw = canvas()
    draw.ellipse((10, 10, 150, 150), fill=(255, 210, 50))
    draw.ellipse((48, 50, 64, 72), fill=(90, 50, 10))
    draw.ellipse((96, 50, 112, 72), fill=(90, 50, 10))
    draw.arc((45, 60, 115, 122), 20, 160, fill=(90, 50, 10), width=7)
    names = [
        ("red circle", "红色圆形"),
        ("blue square", "蓝色方块"),
        ("clock", "时钟"),
        ("smiling face", "笑脸"),
    ]
    return dict(zip(names, (circle, square, clock, smile), strict=True))


def pixels(image: Image.Image, side: int) -> np.ndarray:
    return images.resize_squashed(images.Picture(image, image.width, image.height), side)


def test_embeddings_are_unit_rows_at_any_scale(encoder: LiteEncoder) -> None:
    picture = next(iter(drawings().values()))
    for side in (*encoder.scales, 131):
        vectors = encoder.embed_pixels(np.stack([pixels(picture, side)] * 2))
        assert vectors.shape == (2, encoder.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_texts_are_unit_rows_and_none_is_no_row(encoder: LiteEncoder) -> None:
    vectors = encoder.embed_texts(["a red apple", "红苹果", ""])
    assert vectors.shape == (3, encoder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert encoder.embed_texts([]).shape == (0, encoder.dim)


def test_a_picture_does_not_depend_on_its_batch(encoder: LiteEncoder) -> None:
    stack = np.stack([pixels(image, encoder.scales[0]) for image in drawings().values()])
    alone = np.concatenate([encoder.embed_pixels(one[None]) for one in stack])
    np.testing.assert_allclose(encoder.embed_pixels(stack), alone, atol=1e-4)


def test_a_device_without_memory_for_a_batch_is_told_by_an_error_of_ours() -> None:
    def full_gpu(module: torch.nn.Module, arguments: tuple[torch.Tensor]) -> None:
        if len(arguments[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    cramped = LiteEncoder.load()
    cramped._trunk_once()._net._conv_head.register_forward_pre_hook(full_gpu)
    pair = np.zeros((2, 64, 64, 3), np.uint8)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        cramped.embed_pixels(pair)
    assert cramped.embed_pixels(pair[:1]).shape == (1, cramped.dim)


def test_drawings_are_found_by_their_english_and_chinese_names(encoder: LiteEncoder) -> None:
    drawn = drawings()
    joint = Encoder(encoder)
    pictures = [images.Picture(image, image.width, image.height) for image in drawn.values()]
    vectors = joint.encode_images([images.pyramid(picture, joint.scales) for picture in pictures])
    for language in (0, 1):
        queries = joint.encode_texts([names[language] for names in drawn])
        assert (queries @ vectors.T).argmax(axis=1).tolist() == list(range(len(drawn)))


def test_bfloat16_stays_in_the_space_of_float32(encoder: LiteEncoder) -> None:
    half = LiteEncoder.load(dtype="bfloat16")
    assert half.dtype == "bfloat16"
    for side in encoder.scales:
        stack = np.stack([pixels(image, side) for image in drawings().values()])
        cosines = (encoder.embed_pixels(stack) * half.embed_pixels(stack)).sum(axis=1)
        assert cosines.min() >= 0.999


def test_a_text_query_imports_no_torch() -> None:
    program = (
        "import sys; from pipelines.core.lite import LiteEncoder; "
        "LiteEncoder.load().embed_texts(['red apple']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "readable"),
    [("red apple", True), ("红苹果", True), ("красное яблоко", True), ("תפוח אדום", False), ("42", True)],
)
def test_languages_of_the_text_tower(encoder: LiteEncoder, text: str, readable: bool) -> None:
    assert encoder.reads(text) is readable


def test_other_scales_are_another_revision_of_nothing_but_scales(encoder: LiteEncoder) -> None:
    other = LiteEncoder.load(scales=(128,))
    assert other.scales == (128,)
    assert other.revision == encoder.revision
    assert Encoder(other).space.fingerprint != Encoder(encoder).space.fingerprint


def test_mean_pooling_is_of_the_trunk_and_answers_pictures_alone(encoder: LiteEncoder) -> None:
    mean = load_encoder(EncoderConfig(pooling="mean", scales=(64, 96), dtype="float32"))
    assert (mean.dim, mean.has_text_tower) == (2 * 1280, False)
    assert mean.space.fingerprint != Encoder(LiteEncoder.load(scales=(64, 96))).space.fingerprint
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    wanted = raw_features(encoder.features(pixels))
    np.testing.assert_allclose(mean.model.embed_pixels(pixels), wanted, atol=1e-5)
    with pytest.raises(UsageError, match="'mean' has no text tower"):
        mean.model.embed_texts(["red apple"])


def test_a_directory_without_heads_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no lite heads"):
        LiteEncoder.load(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes((PACKAGED / CONFIG_FILE).read_bytes())
    (tmp_path / HEADS_FILE).write_bytes(b"not tensors")
    with pytest.raises(UsageError, match="holds no lite heads"):
        LiteEncoder.load(tmp_path)


def test_the_packaged_weights_are_small() -> None:
    assert (PACKAGED / HEADS_FILE).stat().st_size <= MAX_WEIGHTS_BYTES
