"""The packaged profiles: each loads, and they differ in addresses, models, engine and sizes alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.core.errors import UsageError
from pipelines.settings import PROFILES, load_settings, origins

MODELS = {
    *("encoder.kind", "encoder.model", "encoder.revision", "encoder.scales"),
    *("embedder.kind", "embedder.model", "generator.model", "generator.engine"),
}
ADDRESSES = {
    *("stores.milvus.uri", "stores.milvus.prefix", "stores.elastic.url", "stores.elastic.prefix"),
    *("ingest.ray_address", "ingest.sources.allowed_addresses"),
}
NAMES = ["cluster", "local", "server"]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MMRAG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def value_of(name: str, tree: Any) -> Any:
    for key in name.split("."):
        tree = tree[key]
    return tree


def test_these_are_the_profiles() -> None:
    assert sorted(file.stem for file in PROFILES.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_loads_by_its_name(name: str) -> None:
    settings = load_settings(Path(name))
    assert (settings.stores.milvus is None) == (name == "local")
    assert bool(settings.ingest.ray_address) == (name == "cluster")
    assert load_settings(name).model_dump() == settings.model_dump()
    assert origins(name) == origins(Path(name))


def test_a_file_loads_by_its_path_as_a_text() -> None:
    Path("mine.yaml").write_text("search: {alpha_text: 0.5}")
    assert load_settings("mine.yaml").search.alpha_text == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_sets_models_addresses_and_sizes_alone(name: str) -> None:
    tree = yaml.safe_load((PROFILES / f"{name}.yaml").read_text("utf-8"))
    others = origins(Path(name)).keys() - MODELS - ADDRESSES
    assert {value_of(other, tree).__class__ for other in others} <= {int, float}


def test_the_local_profile_is_a_laptops() -> None:
    local, default = load_settings(Path("local")), load_settings()
    assert local.index == default.index
    assert local.generator == default.generator


@pytest.mark.parametrize("name", ["cluster", "server"])
def test_a_profile_whose_model_needs_a_gpu_names_the_engine_that_has_one(name: str) -> None:
    """Left open, transformers would answer where vLLM is not installed, and sees no GPU in the server."""
    generator = load_settings(Path(name)).generator
    assert (generator.engine, generator.model) == ("vllm", "llava-hf/llava-1.5-7b-hf")


def test_an_address_of_a_profile_is_set_beside_it() -> None:
    settings = load_settings(Path("cluster"), ["stores.milvus.uri=http://mine:19530"])
    assert settings.stores.milvus is not None
    assert settings.stores.milvus.uri == "http://mine:19530"


def test_a_file_of_that_name_goes_first() -> None:
    Path("server").write_text("search: {alpha_text: 0.5}")
    assert load_settings(Path("server")).search.alpha_text == 0.5


def test_a_name_that_is_neither_is_told() -> None:
    with pytest.raises(UsageError, match="no such file, and no such profile: cluster, local, server"):
        load_settings(Path("sever"))
