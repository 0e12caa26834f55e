"""Fingerprints: what moves them, and what a mismatch says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.errors import SpaceMismatch
from pipelines.core.space import Space, require_same_space, weights_identity

SPACE = Space("clip:vit", "abc", 1536, (224, 336, 448), (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), "projected")


def test_equal_spaces_have_one_fingerprint_across_processes() -> None:
    assert SPACE.fingerprint == replace(SPACE).fingerprint
    assert Space("use", "1", 512).fingerprint == "257ac3474553ab28"


@pytest.mark.parametrize(
    "change",
    [
        {"model": "clip:other"},
        {"revision": "abd"},
        {"dim": 512},
        {"scales": (224,)},
        {"scales": (448, 336, 224)},
        {"mean": (0.0, 2.0, 3.0)},
        {"std": (1.0, 5.0, 6.0)},
        {"pooling": "mean"},
        {"fusion": "sum"},
        {"preprocessing": "images/2"},
    ],
)
def test_whatever_moves_a_vector_moves_the_fingerprint(change: dict) -> None:
    assert replace(SPACE, **change).fingerprint != SPACE.fingerprint


def test_a_space_read_back_from_json_is_the_same_space() -> None:
    require_same_space("visual", SPACE.as_dict(), SPACE)


def test_a_mismatch_names_what_differs_and_what_to_do() -> None:
    with pytest.raises(SpaceMismatch) as caught:
        require_same_space("visual", SPACE.as_dict(), replace(SPACE, revision="new", pooling="mean"))
    message = str(caught.value)
    assert "visual space" in message
    assert "pooling: index 'projected', config 'mean'" in message
    assert "revision: index 'abc', config 'new'" in message
    assert "scales" not in message
    assert "--rebuild" in message


def test_a_field_that_an_older_index_does_not_have_is_a_mismatch() -> None:
    written = SPACE.as_dict()
    del written["pooling"]
    with pytest.raises(SpaceMismatch, match="pooling: index None"):
        require_same_space("visual", written, SPACE)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model = tmp_path / "vit"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(bytes(8 << 20))
    return model


def test_a_hub_id_is_named_by_its_revision() -> None:
    assert weights_identity("openai/clip", "v2") == ("openai/clip", "v2")
    assert weights_identity("openai/clip", None) == ("openai/clip", "main")


def test_a_moved_model_directory_keeps_its_identity(model: Path, tmp_path: Path) -> None:
    before = weights_identity(str(model), None)
    moved = tmp_path / "elsewhere" / "vit"
    moved.parent.mkdir()
    model.rename(moved)
    assert weights_identity(str(moved), None) == before
    assert before[0] == "vit"


@pytest.mark.parametrize("place", [0, 3 << 20, 5_000_000, (8 << 20) - 1])
def test_a_layer_that_was_trained_further_makes_another_model(model: Path, place: int) -> None:
    before = weights_identity(str(model), None)
    with (model / "model.safetensors").open("r+b") as file:
        file.seek(max(0, place - (1 << 16)))
        file.write(b"\1" * min(1 << 17, (8 << 20) - max(0, place - (1 << 16))))
    assert weights_identity(str(model), None) != before


def test_another_vocabulary_makes_another_model(model: Path) -> None:
    before = weights_identity(str(model), None)
    (model / "vocab.txt").write_text("[UNK]")
    assert weights_identity(str(model), None) != before


def test_a_readme_does_not(model: Path) -> None:
    before = weights_identity(str(model), None)
    (model / "README.md").write_text("A model.")
    assert weights_identity(str(model), None) == before
