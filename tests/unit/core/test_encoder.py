"""The multi-scale rule, on a model that sees colours."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import ColourModel, picture

from pipelines.core import images
from pipelines.core.encoder import Encoder, EncoderConfig, load_encoder
from pipelines.core.errors import BadImage, UsageError


def solid(colour: tuple[int, int, int], side: int) -> np.ndarray:
    return np.full((side, side, 3), colour, np.uint8)


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(ColourModel(scales=(2, 4, 6)), batch_size=2)


def test_a_vector_has_one_block_a_scale(encoder: Encoder) -> None:
    assert encoder.dim == 3 * 3
    assert encoder.space.dim == 9
    assert encoder.space.scales == (2, 4, 6)


def test_the_dot_product_is_the_mean_of_the_cosines_of_each_scale(encoder: Encoder) -> None:
    # At 2 pixels red, at 4 the colour between red and green, at 6 green: cosines with "red" 1, 1/√2 and 0.
    pyramid = [solid((255, 0, 0), 2), solid((255, 255, 0), 4), solid((0, 255, 0), 6)]
    [image] = encoder.encode_images([pyramid])
    [text] = encoder.encode_texts(["red"])
    assert image @ text == pytest.approx((1 + 1 / np.sqrt(2) + 0) / 3, abs=1e-6)


def test_pictures_and_texts_have_unit_length(encoder: Encoder) -> None:
    pyramid = [solid((10, 20, 30), side) for side in (2, 4, 6)]
    assert np.linalg.norm(encoder.encode_images([pyramid])) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(encoder.encode_texts(["red and blue"])) == pytest.approx(1, abs=1e-6)


def test_batches_do_not_change_a_vector(encoder: Encoder) -> None:
    pyramids = [[solid((n, 255 - n, 7), side) for side in (2, 4, 6)] for n in range(0, 250, 50)]
    together = encoder.encode_images(pyramids)  # in batches of 2, 2 and 1
    alone = np.concatenate([encoder.encode_images([pyramid]) for pyramid in pyramids])
    assert together.shape == (5, 9)
    np.testing.assert_array_equal(together, alone)


def test_no_pictures_make_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode_images([]).shape == (0, 9)


def test_a_picture_that_lacks_a_scale_is_our_own_mistake(encoder: Encoder) -> None:
    whole, short = [solid((1, 2, 3), side) for side in (2, 4, 6)], [solid((1, 2, 3), 2)]
    with pytest.raises(ValueError, match="argument 2"):
        encoder.encode_images([whole, short])


def test_a_file_is_decoded_resized_and_encoded(encoder: Encoder) -> None:
    green = encoder.encode_bytes(picture("green"))
    assert green.shape == (9,)
    assert green @ encoder.encode_texts(["green"])[0] == pytest.approx(1, abs=1e-4)


def test_a_file_that_is_no_picture_is_refused(encoder: Encoder) -> None:
    with pytest.raises(BadImage):
        encoder.encode_bytes(b"PK\3\4 a zip")


def test_the_rules_of_decoding_are_part_of_the_space(encoder: Encoder) -> None:
    assert encoder.space.preprocessing == images.RULES


def test_the_dtype_is_part_of_the_cache_key_and_not_of_the_space(encoder: Encoder) -> None:
    half = ColourModel(scales=(2, 4, 6))
    half.dtype = "bfloat16"
    other = Encoder(half)
    assert other.space == encoder.space
    assert other.cache_key != encoder.cache_key


def test_mean_pooling_has_no_text_tower() -> None:
    encoder = Encoder(ColourModel(pooling="mean"))
    assert not encoder.has_text_tower
    assert not encoder.reads("red")


def test_a_setting_that_is_misspelt_fails() -> None:
    with pytest.raises(ValueError, match="model_name"):
        EncoderConfig(model_name="x")  # type: ignore[call-arg]


def test_clip_without_a_model_says_which_setting_to_give() -> None:
    with pytest.raises(UsageError, match=r"encoder\.model"):
        load_encoder(EncoderConfig(kind="clip"))
