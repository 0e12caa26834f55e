"""The vectors of questions' pictures: known where they were ingested or asked about lately."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fakes import ColourModel, picture

from pipelines.core.asked_pictures import REMEMBERED, AskedPictures
from pipelines.core.cache import VectorCache
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadImage

RED, BLUE = picture("red"), picture("blue")


@pytest.fixture
def model() -> ColourModel:
    return ColourModel()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectors.sqlite"


@pytest.fixture
def cache(file: Path) -> VectorCache:
    return VectorCache(file, "colours")


@pytest.fixture
def asked(cache: VectorCache, model: ColourModel) -> AskedPictures:
    encoder = Encoder(model)
    return AskedPictures(lambda: cache, lambda: encoder)


def counts(asked: AskedPictures) -> tuple[int, int]:
    return asked.hits, asked.misses


def test_a_picture_that_was_ingested_is_not_encoded(
    asked: AskedPictures, cache: VectorCache, model: ColourModel
) -> None:
    kept = np.ones(6, np.float32)
    cache.put({hashlib.sha256(RED).hexdigest(): kept})
    np.testing.assert_array_equal(asked.vectors(RED), kept[None])
    assert (model.pictures_seen, counts(asked)) == (0, (1, 0))


def test_what_was_asked_about_is_remembered_and_not_written(
    asked: AskedPictures, cache: VectorCache, model: ColourModel
) -> None:
    first, again = asked.vectors(RED), asked.vectors(RED)
    np.testing.assert_array_equal(first, again)
    assert (model.pictures_seen, counts(asked)) == (1, (1, 1))
    assert cache.get([hashlib.sha256(RED).hexdigest()]) == {}


def test_only_the_last_pictures_are_remembered(asked: AskedPictures, model: ColourModel) -> None:
    asked.vectors(RED)
    for shade in range(REMEMBERED - 1):
        asked.vectors(picture((shade, 1, 1)))
        asked.vectors(RED)  # was asked about again: not the oldest
    asked.vectors(BLUE)
    assert model.pictures_seen == REMEMBERED + 1
    asked.vectors(RED)
    assert model.pictures_seen == REMEMBERED + 1
    asked.vectors(picture((0, 1, 1)))
    assert model.pictures_seen == REMEMBERED + 2


def test_a_cache_that_fails_is_told_of_once_and_asked_no_more(
    asked: AskedPictures, file: Path, model: ColourModel, caplog: pytest.LogCaptureFixture
) -> None:
    file.write_bytes(b"no database" * 100)
    with caplog.at_level(logging.WARNING):
        for data in (RED, BLUE, RED):
            asked.vectors(data)
    assert (model.pictures_seen, counts(asked)) == (2, (1, 2))
    [told] = caplog.messages
    assert "without the cache" in told
    assert str(file) in told


def test_a_cache_in_a_folder_that_cannot_be_made_is_one_that_fails(
    tmp_path: Path, model: ColourModel, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    cache, encoder = VectorCache(tmp_path / "cache" / "vectors.sqlite", "colours"), Encoder(model)
    asked = AskedPictures(lambda: cache, lambda: encoder)
    np.testing.assert_array_equal(asked.vectors(RED), encoder.encode_asked(RED))
    assert "without the cache" in caplog.text


def test_what_is_no_picture_is_refused_each_time(asked: AskedPictures) -> None:
    for _ in range(2):
        with pytest.raises(BadImage):
            asked.vectors(b"GIF89a, or not")


def test_threads_that_ask_at_once_get_the_same(asked: AskedPictures) -> None:
    expected = Encoder(ColourModel()).encode_asked(RED)
    with ThreadPoolExecutor(8) as pool:
        for vector in pool.map(asked.vectors, [RED] * 64):
            np.testing.assert_array_equal(vector, expected)
    assert sum(counts(asked)) == 64
