from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.core.adapter import (
    MANIFEST_FILE,
    AdapterManifest,
    base_identity,
    check,
    hub_name,
    read_adapters,
    read_manifest,
)
from pipelines.core.errors import UsageError
from pipelines.core.grounding import FrameConfig

TENSORS = {
    "model.vision_tower.embeddings.class_embedding": torch.arange(8.0),
    "model.language_model.layers.0.mlp.up_proj.weight": torch.arange(12.0).reshape(3, 4),
    "lm_head.weight": torch.arange(3000.0).reshape(3, 1000),
}


def write_model(directory: Path, tensors: dict[str, torch.Tensor] = TENSORS, **config: object) -> Path:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    settings = {"model_type": "llava", "text_config": {"hidden_size": 4, "dtype": "float32"}} | config
    (directory / "config.json").write_text(json.dumps(settings), "utf-8")
    return directory


def manifest_of(model: Path) -> AdapterManifest:
    return AdapterManifest(
        kind="adapter",
        base=base_identity(model),
        prompt_version="1",
        data_hash="d",
        frame=FrameConfig(),
        rank=4,
        step=10,
        mmrag_version="0",
    )


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = manifest_of(write_model(tmp_path / "base"))
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


def test_its_own_base_and_prompt_pass(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    check(manifest_of(base), base_identity(base), "1", FrameConfig())


@pytest.mark.parametrize("name", ["moved", "renamed", "in two files", "saved again by a library"])
def test_the_same_weights_are_the_same_base_however_they_are_stored(tmp_path: Path, name: str) -> None:
    identity = base_identity(write_model(tmp_path / "base"))
    other = tmp_path / "other"
    if name == "moved":
        write_model(other)
    elif name == "renamed":
        write_model(other, {hub_name(key): tensor for key, tensor in TENSORS.items()})
    elif name == "saved again by a library":
        write_model(other, transformers_version="6", text_config={"hidden_size": 4, "dtype": "bfloat16"})
    else:
        first, *rest = TENSORS
        write_model(other, {key: TENSORS[key] for key in rest})
        save_file({first: TENSORS[first]}, other / "another.safetensors")
    there = base_identity(other)
    assert (there.config, there.weights) == (identity.config, identity.weights)


@pytest.mark.parametrize("position", [0, 1500])
def test_a_fine_tune_of_the_same_architecture_is_another_base(tmp_path: Path, position: int) -> None:
    base = write_model(tmp_path / "base")
    tuned = TENSORS | {"lm_head.weight": TENSORS["lm_head.weight"].clone()}
    tuned["lm_head.weight"].view(-1)[position] += 1e-3
    with pytest.raises(UsageError, match=r"the base model's weights \('tuned' here, trained on 'base'"):
        check(manifest_of(base), base_identity(write_model(tmp_path / "tuned", tuned)), "1", FrameConfig())


def test_each_difference_is_named(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    other = write_model(tmp_path / "other", vision_feature_layer=-1)
    with pytest.raises(UsageError) as raised:
        check(manifest_of(base), base_identity(other), "2", FrameConfig())
    message = str(raised.value)
    assert "config" in message
    assert "the prompt ('2' here, trained with '1')" in message
    assert "weights (" not in message


def test_an_adapter_of_another_frame_or_that_is_none_is_refused_by_its_name(tmp_path: Path) -> None:
    """Its boxes would be read in units that it does not count in."""
    base = write_model(tmp_path / "base")
    manifest_of(base).write(tmp_path)
    served = {"signs": tmp_path}, base_identity(base), "1"
    assert read_adapters(*served, FrameConfig())["signs"].rank == 4
    with pytest.raises(
        UsageError, match=r"adapters\.signs: .*pad, 100 units here, trained with pad, 1000 units"
    ):
        read_adapters(*served, FrameConfig(units=100))
    manifest_of(base).model_copy(update={"kind": "merged"}).write(tmp_path)
    with pytest.raises(UsageError, match=r"adapters\.signs: it holds merged weights.*generator\.model"):
        read_adapters(*served, FrameConfig())


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no mmrag\.json"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("{}", "utf-8")
    with pytest.raises(UsageError, match="damaged or of another version"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("no config", "no config.json"),
        ("no weights", "no safetensors weights"),
        ("cut weights", "is damaged"),
        ("cut config", "is damaged"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, damage: str, problem: str) -> None:
    base = write_model(tmp_path / "base")
    match damage:
        case "no config":
            (base / "config.json").unlink()
        case "no weights":
            (base / "model.safetensors").unlink()
        case "cut weights":
            (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:100])
        case "cut config":
            (base / "config.json").write_text("{", "utf-8")
    with pytest.raises(UsageError, match=problem):
        base_identity(base)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lm_head.weight", "language_model.lm_head.weight"),
        ("model.language_model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.model.norm.weight", "language_model.model.norm.weight"),
        ("language_model.norm.weight", "language_model.model.norm.weight"),
        ("model.vision_tower.post_layernorm.bias", "vision_tower.vision_model.post_layernorm.bias"),
        ("vision_tower.vision_model.post_layernorm.bias", "vision_tower.vision_model.post_layernorm.bias"),
        ("model.multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_1.bias"),
    ],
)
def test_names_of_every_version_become_the_hubs(name: str, expected: str) -> None:
    assert hub_name(name) == expected
    assert hub_name(expected) == expected
