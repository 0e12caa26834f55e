"""What is known of a model before it is loaded, and how its prompt begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_llava import IMAGE_TOKENS, SIDE, save_tiny_llava, tiny_processor

from pipelines.core import generator
from pipelines.core.adapter import AdapterManifest, BaseModelIdentity
from pipelines.core.errors import UsageError
from pipelines.core.generator import GeneratorConfig, load_profile, model_name, prompt_text
from pipelines.core.grounding import FrameConfig
from pipelines.core.prompts import PROMPT_VERSION, Turn


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("models") / "tiny")


def manifest(version: str = PROMPT_VERSION) -> AdapterManifest:
    base = BaseModelIdentity(name="b", config="c", weights="w")
    frame = FrameConfig(fit="squash", units=100)
    return AdapterManifest(
        kind="merged", base=base, prompt_version=version, data_hash="d", frame=frame, rank=0, step=1,
        mmrag_version="0",
    )  # fmt: skip


def test_a_profile_is_read_from_the_models_files(model) -> None:
    profile = load_profile(GeneratorConfig(model=str(model)))
    assert (profile.name, profile.side, profile.tokens_per_image) == ("tiny", SIDE, IMAGE_TOKENS)
    assert (profile.context, profile.frame) == (512, FrameConfig())
    assert profile.count("abc重") == 6
    assert profile.cut("one two three", 8) == "one two"


def test_the_packaged_model_needs_no_name() -> None:
    profile = load_profile(GeneratorConfig())
    assert (profile.name, profile.side, profile.tokens_per_image) == ("tiny-llava", 160, 100)
    assert profile.frame == FrameConfig(fit="pad", units=100)
    assert GeneratorConfig().most_pictures == 1
    assert GeneratorConfig(model="llava-hf/llava-1.5-7b-hf").most_pictures == 4
    assert GeneratorConfig(max_pictures=2).most_pictures == 2
    assert sum(file.stat().st_size for file in profile.directory.iterdir()) < 60e6


def test_settings_narrow_the_context_and_choose_the_frame(model) -> None:
    frame = FrameConfig(fit="squash", units=10)
    profile = load_profile(GeneratorConfig(model=str(model), max_model_len=300, frame=frame))
    assert (profile.context, profile.frame) == (300, frame)


def test_an_export_brings_its_frame_and_is_bound_to_its_prompt(tmp_path) -> None:
    model = save_tiny_llava(tmp_path / "export")
    manifest().write(model)
    assert load_profile(GeneratorConfig(model=str(model))).frame == FrameConfig(fit="squash", units=100)
    manifest("0").write(model)
    with pytest.raises(UsageError, match="trained with prompt '0'"):
        load_profile(GeneratorConfig(model=str(model)))


def test_what_is_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"has no config\.json"):
        load_profile(GeneratorConfig(model=str(tmp_path)))


def test_a_picture_processor_without_a_square_leaves_the_side_open(model, tmp_path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    processor = json.loads((tmp_path / "processor_config.json").read_text())
    processor["image_processor"].pop("crop_size")
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    assert load_profile(GeneratorConfig(model=str(tmp_path))).side is None


def test_a_model_is_called_by_its_last_name() -> None:
    names = [model_name(GeneratorConfig(model=model)) for model in ("", "llava-hf/llava-1.5-7b-hf", "/m/x")]
    assert names == ["tiny-llava", "llava-1.5-7b-hf", "x"]


def test_the_first_token_is_added_where_the_template_does_not_write_it() -> None:
    processor = tiny_processor()
    text, wants_first = prompt_text(processor, [Turn("user", "hi")])
    assert text.startswith("<s>USER")
    assert not wants_first
    processor.chat_template = "{% for m in messages %}{{ m.role }}{% endfor %}"
    assert prompt_text(processor, [Turn("user", "hi")]) == ("user", True)


def test_serve_takes_the_engine_that_is_named_or_vllm_where_it_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for installed, chosen in ((None, "transformers"), (object(), "vllm")):
        monkeypatch.setattr(generator, "find_spec", lambda name, found=installed: found)
        assert GeneratorConfig().served_by == chosen
        assert GeneratorConfig(engine="transformers").served_by == "transformers"
        assert GeneratorConfig(engine="vllm").served_by == "vllm"
