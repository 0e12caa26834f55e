"""How far questions have moved from the index: the distance by hand and by draws, and its windows."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from fakes import chunk_part, image_part, shelved_index

from pipelines.core.errors import StoreUnavailable
from pipelines.serve import drift
from pipelines.serve.drift import Drift, Moments, frechet, moments, sampled
from pipelines.serve.metrics import exposition

RIGHT, UP = np.array([1, 0], np.float32), np.array([0, 1], np.float32)


def told(watching: Drift) -> list[str]:
    """Its samples, once what was submitted is done."""
    watching._thread.submit(int).result(10)
    text = exposition({"": watching.families()}).decode()
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_moments_are_of_each_coordinate() -> None:
    found = moments(np.array([[1, 0], [0, 0], [1, 0], [0, 0]], np.float32))
    assert (found.mean.tolist(), found.std.tolist()) == ([0.5, 0], [0.5, 0])


def test_the_distance_is_of_means_and_of_spreads() -> None:
    one = Moments(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    other = Moments(np.array([3.0, 1.0]), np.array([1.0, 4.0]))
    assert frechet(one, other) == frechet(other, one) == 3**2 + 2**2
    assert frechet(one, one) == 0


def test_it_is_that_of_whole_covariances_where_coordinates_do_not_depend_on_each_other() -> None:
    means, stds = np.array([[0.1, 0.5, 0.0], [0.0, 0.2, 0.3]]), np.array([[0.2, 0.1, 0.5], [0.4, 0.1, 0.3]])
    one, other = (np.diag(std**2) for std in stds)
    # Tr(C + C' - 2 (C C')^(1/2)), the root by eigenvalues.
    root = np.sqrt(np.linalg.eigvals(one @ other)).sum()
    whole = np.sum((means[0] - means[1]) ** 2) + np.trace(one) + np.trace(other) - 2 * root
    assert frechet(Moments(means[0], stds[0]), Moments(means[1], stds[1])) == pytest.approx(whole)


def test_draws_of_one_source_are_as_far_apart_as_their_numbers_say_and_of_another_farther() -> None:
    random = np.random.default_rng(0)

    def draw(towards: float) -> Moments:
        vectors = random.normal(size=(500, 64)) + towards * np.eye(64)[0]
        return moments((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))

    same = np.mean([frechet(draw(0), draw(0)) for _ in range(20)])
    assert same / (1 / 500 + 1 / 500) == pytest.approx(
        1.5, abs=0.1
    )  # the means', and half of it the spreads'
    assert frechet(draw(3), draw(0)) > 20 * same


def test_a_distance_is_told_when_a_window_is_full() -> None:
    watching = Drift(2, lambda collection: np.stack([RIGHT, RIGHT]))
    watching.add("text", RIGHT)
    assert told(watching) == []
    watching.add("text", UP)
    # The mean is (1/2, 1/2) from (1, 0), the spread (1/2, 1/2) from none.
    assert told(watching) == [
        'mmrag_question_drift{branch="text"} 1.0',
        'mmrag_index_drift{collection="text"} 0.0',
    ]
    watching.add("text", RIGHT)
    assert 'mmrag_question_drift{branch="text"} 1.0' in told(watching)
    watching.add("text", RIGHT)
    assert 'mmrag_question_drift{branch="text"} 0.0' in told(watching)


def test_branches_are_compared_with_what_they_search() -> None:
    asked: list[str] = []

    def sample(collection: str) -> np.ndarray:
        asked.append(collection)
        return np.stack([RIGHT])

    watching = Drift(1, sample)
    for branch in ("text", "text_to_image", "image_to_image"):
        watching.add(branch, UP)
    assert len(told(watching)) == 5
    assert asked == ["text", "visual", "visual"]


def test_an_index_that_changes_has_moved_from_what_it_was_first() -> None:
    held = [np.stack([RIGHT]), np.stack([UP]), np.stack([RIGHT])]
    watching = Drift(1, lambda collection: held.pop(0))
    for expected in (0.0, 2.0, 0.0):
        watching.add("text", RIGHT)
        assert f'mmrag_index_drift{{collection="text"}} {expected}' in told(watching)


def test_without_a_window_nothing_is_kept_and_the_index_is_not_read() -> None:
    asked: list[str] = []

    def sample(collection: str) -> np.ndarray:
        asked.append(collection)
        return np.stack([RIGHT])

    watching = Drift(0, sample)
    watching.add("text", RIGHT)
    assert told(watching) == []
    assert (asked, watching._asked) == ([], {})


def test_an_empty_index_is_nothing_to_compare_with() -> None:
    watching = Drift(1, lambda collection: np.empty((0, 2), np.float32))
    watching.add("text", RIGHT)
    assert told(watching) == []


def test_a_store_that_is_down_leaves_the_distance_before_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    held = [np.stack([RIGHT])]

    def sample(collection: str) -> np.ndarray:
        if held:
            return held.pop()
        raise StoreUnavailable("milvus does not answer")

    watching = Drift(1, sample)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            watching.add("text", UP)
            assert 'mmrag_question_drift{branch="text"} 2.0' in told(watching)
    assert "could not be compared with the index: milvus does not answer" in caplog.text


def test_vectors_are_those_of_the_index_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "SAMPLE", 3)
    with shelved_index(tmp_path, writable=True) as index:
        with index.write_lock():
            index.create()
        dims = index.encoder().dim, index.embedder().space.dim
        reader = shelved_index(tmp_path)
        assert index.visual().count() == index.text().count() == 0
        assert [sampled(reader, name).shape for name in ("visual", "text")] == [(0, dim) for dim in dims]
        pictures = np.eye(5, dims[0], dtype=np.float32)
        index.visual().upsert([image_part(f"d{n}") for n in range(5)], pictures)
        index.text().upsert([chunk_part("d", "t")], np.eye(1, dims[1], dtype=np.float32))
        found = sampled(reader, "visual")
        assert found.shape == (3, dims[0])
        assert {tuple(one) for one in found} < {tuple(one) for one in pictures}
        np.testing.assert_array_equal(sampled(reader, "text"), np.eye(1, dims[1]))
