"""Models on this machine: found, whole, and weighed without being loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.core.errors import UsageError
from pipelines.core.local_models import find_model, footprint, weight_files


def small_model(directory: Path) -> Path:
    """Two layers whose keys and values have 8 numbers, a vision layer, and 5 quantised bytes."""
    directory.mkdir(exist_ok=True)
    half, single = np.float16, np.float32
    tensors = {
        f"language_model.layers.{layer}.self_attn.{name}.weight": np.zeros((8, 16), half)
        for layer in (0, 1)
        for name in ("k_proj", "v_proj")
    }
    tensors |= {
        "vision_tower.layers.0.self_attn.k_proj.weight": np.zeros((4, 4), half),
        "language_model.embed.weight": np.zeros((10, 16), single),
        "language_model.packed": np.zeros(5, np.uint8),
    }
    save_file(tensors, directory / "model.safetensors")
    return directory


def test_a_model_is_weighed_as_it_will_be_loaded(tmp_path: Path) -> None:
    found = footprint(small_model(tmp_path), float_bytes=2)
    assert found.weights == 2 * (4 * 8 * 16 + 4 * 4 + 10 * 16) + 5
    assert found.kv_a_token == 2 * 2 * (8 + 8)  # two layers, a key and a value of 8 numbers each


def test_wider_numbers_take_more_but_quantised_ones_stay(tmp_path: Path) -> None:
    found = footprint(small_model(tmp_path), float_bytes=4)
    assert found.weights == 4 * (4 * 8 * 16 + 4 * 4 + 10 * 16) + 5
    assert found.kv_a_token == 4 * 2 * (8 + 8)


def test_weights_of_another_form_count_as_they_lie_there(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\0" * 100)
    found = footprint(tmp_path, float_bytes=2)
    assert (found.weights, found.kv_a_token) == (100, None)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    small_model(tmp_path).joinpath("model.safetensors").rename(tmp_path / "model-1.safetensors")
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UsageError, match=r"lacks model-2\.safetensors"):
        weight_files(tmp_path)


def test_a_directory_without_weights_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lacks weights"):
        weight_files(tmp_path)


@pytest.mark.parametrize(
    ("model", "revision", "complaint"),
    [
        ("", None, "generator.model names no directory or hub id"),
        ("someone/surely-not-cached", None, "`hf download someone/surely-not-cached` does"),
        ("someone/surely-not-cached", "main", "`hf download someone/surely-not-cached --revision main` does"),
        ("/no/such/directory", None, "is no directory"),
    ],
)
def test_a_model_that_is_not_here_is_told_and_not_fetched(
    model: str, revision: str | None, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        find_model("generator.model", model, revision)
