"""The multi-scale rule, on a model that sees colours."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from fakes import ColourModel, picture

from pipelines.core import images
from pipelines.core.encoder import Encoder, EncoderConfig, load_encoder
from pipelines.core.errors import BadImage, OutOfMemory, UsageError
from pipelines.core.torch_runtime import own_memory_error


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
    green = encoder.encode_asked(picture("green"))[0]
    assert green.shape == (9,)
    assert green @ encoder.encode_texts(["green"])[0] == pytest.approx(1, abs=1e-4)


def test_a_file_that_is_no_picture_is_refused(encoder: Encoder) -> None:
    with pytest.raises(BadImage):
        encoder.encode_asked(b"PK\3\4 a zip")


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


# Batches.


class CrampedModel(ColourModel):
    """Holds no more pictures of a scale at once than it has `room` for; else it fails as torch does."""

    def __init__(self, room: Mapping[int, int], device: str = "cpu") -> None:
        super().__init__(scales=tuple(room))
        self.device = device
        self.room = room
        self.batches: list[tuple[int, int]] = []
        self.leftovers = weakref.WeakSet[Activations]()

    @own_memory_error()
    def embed_pixels(self, pixels_NHWC: np.ndarray) -> np.ndarray:
        assert not self.leftovers, "the batch before still has its memory"
        activations = Activations()
        self.leftovers.add(activations)
        count, side = pixels_NHWC.shape[:2]
        self.batches.append((side, count))
        if count > self.room[side]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return super().embed_pixels(pixels_NHWC)


class Activations:
    """What a forward pass holds on to until it returns."""


def shades(count: int, scales: tuple[int, ...]) -> list[list[np.ndarray]]:
    return [[solid((n, 255 - n, 7), side) for side in scales] for n in range(count)]


def test_a_batch_that_does_not_fit_is_halved_and_stays_so(caplog: pytest.LogCaptureFixture) -> None:
    model = CrampedModel({2: 8, 4: 3})
    encoder, pyramids = Encoder(model, batch_size=8), shades(10, (2, 4))
    with caplog.at_level(logging.WARNING):
        vectors = encoder.encode_images(pyramids)
    assert model.batches == [(2, 8), (2, 2), (4, 8), (4, 4), *[(4, 2)] * 5]
    assert [record.args[1:] for record in caplog.records] == [(8, 4, 4, 4), (4, 4, 4, 2)]
    np.testing.assert_array_equal(vectors, Encoder(ColourModel((2, 4))).encode_images(pyramids))
    model.batches.clear()
    encoder.encode_images(pyramids[:3])
    assert model.batches == [(2, 3), (4, 2), (4, 1)]


def test_the_last_batch_may_be_the_one_that_does_not_fit() -> None:
    model = CrampedModel({2: 2})
    encoder = Encoder(model, batch_size=8)
    assert encoder.encode_images(shades(5, (2,))).shape == (5, 3)
    assert model.batches == [(2, 5), (2, 2), (2, 2), (2, 1)]


def test_one_picture_that_does_not_fit_says_what_to_do() -> None:
    encoder = Encoder(CrampedModel({2: 9, 448: 0}), batch_size=2)
    with pytest.raises(OutOfMemory, match=r"448 x 448 pixels: leave 448 out of encoder\.scales, .*float16"):
        encoder.encode_images(shades(2, (2, 448)))


def test_on_a_gpu_smaller_pictures_go_in_larger_batches() -> None:
    encoder = Encoder(CrampedModel(dict.fromkeys((224, 336, 448), 99), device="cuda:1"), batch_size=16)
    assert [encoder.batch_at(side) for side in (224, 336, 448)] == [64, 28, 16]
    model = CrampedModel({2: 99, 4: 99}, device="cuda")
    Encoder(model, batch_size=2).encode_images(shades(9, (2, 4)))
    assert model.batches == [(2, 8), (2, 1), *[(4, 2)] * 4, (4, 1)]


def test_on_a_cpu_batches_of_all_scales_are_the_same() -> None:
    encoder = Encoder(ColourModel((224, 336, 448)), batch_size=16)
    assert [encoder.batch_at(side) for side in (224, 336, 448)] == [16, 16, 16]


def test_compiling_is_for_clip() -> None:
    with pytest.raises(ValueError, match="compile goes with kind 'clip' only"):
        EncoderConfig(compile=True)
