from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from llava_runs import collate, sample, settings
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny_llava import save_tiny_llava, tiny_llava
from transformers import LlamaConfig, LlavaForConditionalGeneration

from pipelines.core.adapter import own_frame
from pipelines.core.errors import MissingDependency, UsageError
from pipelines.core.generator import TINY_LLAVA
from pipelines.core.grounding import FrameConfig
from pipelines.settings import load_settings
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_model import (
    base_directory,
    in_own_frame,
    load_base,
    prepare_trainable,
    seen_vision_layers,
    training_dtype,
)

NO_ADAPTERS = {"r": 0}
BLOCKS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
PROJECTOR = {f"model.multi_modal_projector.linear_{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("base"))


def test_a_base_with_a_manifest_is_trained_in_its_own_frame_unless_another_is_set(base: Path) -> None:
    """As the settings have it that users write."""

    def frame(model: Path, *assignments: str) -> FrameConfig:
        config = load_settings(None, ["train.llava.steps=3", *assignments]).train.llava
        return in_own_frame(config, model).frame

    packaged = own_frame(TINY_LLAVA)
    assert packaged != FrameConfig()
    assert frame(TINY_LLAVA) == packaged
    assert frame(TINY_LLAVA, "train.llava.frame.units=500") == FrameConfig(units=500)
    assert frame(base) == FrameConfig()


def adapter_names(*projections: str) -> set[str]:
    return {
        f"model.language_model.layers.{layer}.{block}.{projection}.lora_{side}.default.weight"
        for layer in range(2)
        for block, there in BLOCKS.items()
        for projection in there
        for side in "AB"
        if projection in projections
    }


def vision_names(*layers: int) -> set[str]:
    parts = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj")
    parts += ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
    return {
        f"model.vision_tower.encoder.layers.{layer}.{part}.{kind}"
        for layer in layers
        for part in parts
        for kind in ("weight", "bias")
    }


EMBEDDINGS = {
    f"model.vision_tower.embeddings.{name}" for name in ("class_embedding", "patch_embedding.weight")
}
EMBEDDINGS |= {"model.vision_tower.embeddings.position_embedding.weight"}
BEFORE = {f"model.vision_tower.pre_layrnorm.{kind}" for kind in ("weight", "bias")}
LANGUAGE = {
    f"model.language_model.layers.{layer}.{block}.{projection}.weight"
    for layer in range(2)
    for block, there in BLOCKS.items()
    for projection in there
}
LANGUAGE |= {
    f"model.language_model.layers.{layer}.{norm}.weight"
    for layer in range(2)
    for norm in ("input_layernorm", "post_attention_layernorm")
}
LANGUAGE |= {"model.language_model.embed_tokens.weight", "model.language_model.norm.weight", "lm_head.weight"}
ALL_ADAPTERS = adapter_names(*(name for names in BLOCKS.values() for name in names))


def test_the_defaults_are_those_of_the_field():
    config = LlavaTraining()
    assert (config.batch_size, config.accumulate) == (4, 8)
    assert (config.learning_rate, config.weight_decay, config.warm_up) == (2e-4, 0.01, 100)
    assert (config.save_steps, config.steps) == (500, 3000)
    assert (config.lora.r, config.lora.alpha, config.lora.dropout) == (64, 128, 0.05)
    assert set(config.lora.targets) == {name for names in BLOCKS.values() for name in names}
    assert (config.train_projector, config.vision_layers, config.quantize) == (False, 0, "none")
    assert not config.train_all
    assert not config.train_language


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"quantize": "nf4"}, "GPUs only"),
        ({"quantize": "nf4", "use_gpu": True, "strategy": "fsdp"}, "cannot be sharded"),
        ({"dtype": "float16"}, "GPUs only"),
        ({"cpu_offload": True}, "fsdp"),
        ({"lora": {"r": 0}}, "nothing to train"),
        ({"train_all": True}, "set lora.r to 0"),
        ({"train_all": True, "lora": {"r": 0}, "vision_layers": 1}, "train_projector or vision_layers"),
        ({"train_language": True}, "set lora.r to 0"),
        ({"optimizer": "muon"}, "goes with train_all"),
        ({"compile": True, "strategy": "fsdp"}, "use 'ddp'"),
        ({"train_language": True, "lora": {"r": 0}, "quantize": "nf4", "use_gpu": True}, "use one of them"),
        ({"train_all": True, "lora": {"r": 0}, "quantize": "nf4", "use_gpu": True}, "use one of them"),
        ({"stepps": 3}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused_with_the_reason(wrong, says):
    with pytest.raises(ValidationError, match=says):
        LlavaTraining.model_validate(wrong)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ALL_ADAPTERS),
        ({"lora": {"r": 2, "targets": ["q_proj", "v_proj"]}}, adapter_names("q_proj", "v_proj")),
        ({"train_projector": True}, ALL_ADAPTERS | PROJECTOR),
        ({"vision_layers": 1}, ALL_ADAPTERS | vision_names(1)),
        ({"vision_layers": 2, "train_projector": True}, ALL_ADAPTERS | PROJECTOR | vision_names(0, 1)),
        ({"lora": NO_ADAPTERS, "train_projector": True}, PROJECTOR),
        ({"lora": NO_ADAPTERS, "vision_layers": 1}, vision_names(1)),
        ({"lora": NO_ADAPTERS, "train_language": True}, LANGUAGE),
        ({"lora": NO_ADAPTERS, "train_language": True, "train_projector": True}, LANGUAGE | PROJECTOR),
        (
            {"lora": NO_ADAPTERS, "train_all": True},
            LANGUAGE | PROJECTOR | EMBEDDINGS | BEFORE | vision_names(0, 1),  # the third layer is not read
        ),
    ],
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_exactly_the_asked_weights_learn_and_every_one_of_them_gets_gradient(
    base, changes, names, checkpointing
):
    config = settings(base, gradient_checkpointing=checkpointing, **changes)
    trainable = prepare_trainable(load_base(config, "cpu"), config)
    assert set(trainable.names) == names
    # B is 0 at first, so A would get a gradient of 0.
    for name in trainable.adapter:
        if ".lora_B." in name:
            torch.nn.init.normal_(trainable.parameters()[name], std=0.1)
    trainable.loss.train()
    trainable.loss(collate([sample(0), sample(1)])).backward()
    for name, parameter in trainable.llava.named_parameters():
        if name in names:
            # A key's bias shifts all scores of a query alike, which softmax ignores.
            assert name.endswith("k_proj.bias") or parameter.grad.abs().max() > 0, name
            assert parameter.grad is not None, name
            assert parameter.dtype == torch.float32
        else:
            assert parameter.grad is None, name


def test_the_last_vision_layer_would_get_no_gradient(base):
    config = settings(base, vision_layers=1)
    model = load_base(config, "cpu")
    trainable = prepare_trainable(model, config)
    last = model.model.vision_tower.encoder.layers[2].requires_grad_(True)
    trainable.loss(collate([sample(0)])).backward()
    assert all(parameter.grad is None for parameter in last.parameters())


@pytest.mark.parametrize(
    ("read", "wanted", "layers"),
    [
        (-2, 1, [1]),
        (-2, 2, [0, 1]),
        (-1, 1, [2]),
        (2, 1, [1]),
        (1, 1, [0]),
        ([-3, -2], 1, [1]),
        ([1, -1], 2, [1, 2]),
        (-2, 0, []),
    ],
)
def test_vision_layers_are_counted_back_from_the_one_that_is_read(read, wanted, layers):
    model = tiny_llava()
    model.config.vision_feature_layer = read
    every = model.model.vision_tower.encoder.layers
    assert seen_vision_layers(model, wanted) == [every[layer] for layer in layers]


@pytest.mark.parametrize(("read", "wanted"), [(-2, 3), (0, 1), ([1, -3], 2)])
def test_more_vision_layers_than_are_seen_are_refused(read, wanted):
    model = tiny_llava()
    model.config.vision_feature_layer = read
    with pytest.raises(UsageError, match=f"vision_layers is {wanted}, but only"):
        seen_vision_layers(model, wanted)


def test_a_target_that_no_layer_has_is_refused_and_the_right_names_are_said(base):
    config = settings(base, lora={"targets": ["q_proj", "out_proj"]})  # out_proj is CLIP's
    with pytest.raises(UsageError, match=r"called out_proj; it has down_proj, gate_proj, k_proj"):
        prepare_trainable(load_base(config, "cpu"), config)


def test_the_loss_is_that_of_transformers_summed(base):
    config = settings(base)
    model = load_base(config, "cpu")
    batch = collate([sample(0), sample(1), sample(2)])
    inputs = {name: value for name, value in batch.items() if name != "ids"}
    with torch.no_grad():
        theirs = model(**inputs).loss
        ours = prepare_trainable(model, config).loss.eval()(batch)
    assert ours.item() == pytest.approx(
        theirs.item() * (batch["labels"][:, 1:] != -100).sum().item(), rel=1e-6
    )


def test_a_batch_without_labels_has_the_loss_0_and_can_be_run_backwards(base):
    config = settings(base)
    trainable = prepare_trainable(load_base(config, "cpu"), config)
    batch = collate([sample(0)])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = trainable.loss(batch)
    loss.backward()
    assert loss.item() == 0


def test_text_alone_gives_what_sees_pictures_a_gradient_of_0_and_no_other_loss(base):
    config = settings(base, train_projector=True, vision_layers=1)
    trainable = prepare_trainable(load_base(config, "cpu"), config)
    batch = collate([sample(2)])
    assert "pixel_values" not in batch
    trainable.loss.train()
    loss = trainable.loss(batch)
    loss.backward()
    learnt = trainable.parameters()
    for name in trainable.thawed:
        assert torch.equal(learnt[name].grad, torch.zeros_like(learnt[name]))
    assert loss.item() == pytest.approx(trainable.loss.eval()(batch).item(), abs=1e-5)


def test_dropout_is_active_in_training_only(base):
    config = settings(base, lora={"r": 4, "dropout": 0.5})
    trainable = prepare_trainable(load_base(config, "cpu"), config)
    for name in trainable.adapter:
        torch.nn.init.normal_(trainable.parameters()[name], std=0.1)
    batch = collate([sample(0)])
    trainable.loss.eval()
    assert trainable.loss(batch).item() == trainable.loss(batch).item()
    trainable.loss.train()
    assert trainable.loss(batch).item() != trainable.loss(batch).item()


def test_adapters_start_from_the_seed_alone_and_leave_the_base_as_it_is(base):
    def adapters(seed: int, disturbance: int):
        torch.manual_seed(disturbance)
        config = settings(base, seed=seed)
        return prepare_trainable(load_base(config, "cpu"), config).state()

    one, same, other = adapters(0, 1), adapters(0, 2), adapters(1, 1)
    a = next(name for name in one if ".lora_A." in name)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one[a], other[a])


def test_checkpointing_does_not_run_the_frozen_vision_tower_backwards(base):
    config = settings(base, gradient_checkpointing=True)
    trainable = prepare_trainable(load_base(config, "cpu"), config)
    model = trainable.llava.train()
    pixels = collate([sample(0)])["pixel_values"]
    features = model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    assert not any(feature.requires_grad for feature in features)
    assert all(layer.gradient_checkpointing for layer in model.model.language_model.layers)


@pytest.mark.parametrize(
    ("learns", "head"),
    [
        ({"train_projector": True, "vision_layers": 1}, torch.bfloat16),
        ({"lora": NO_ADAPTERS, "train_all": True}, torch.float32),
    ],
)
def test_what_learns_is_float32_over_a_bfloat16_base(base, learns, head):
    config = settings(base, dtype="bfloat16", **learns)
    trainable = prepare_trainable(load_base(config, "cpu"), config)
    exact = prepare_trainable(load_base(settings(base), "cpu"), settings(base))
    assert {parameter.dtype for parameter in trainable.parameters().values()} == {torch.float32}
    assert trainable.llava.lm_head.weight.dtype == head
    batch = collate([sample(0), sample(1)])
    loss = trainable.loss(batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.loss(batch).item(), rel=0.02)
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in trainable.parameters().values())


def test_the_automatic_dtype_of_a_cpu_is_one_that_it_computes_in(base):
    assert training_dtype(LlavaTraining(), "cpu") in (torch.float32, torch.bfloat16)


def test_a_base_model_that_is_not_there_is_refused(tmp_path):
    for missing in ("", str(tmp_path / "nothing")):
        with pytest.raises(UsageError, match="base_model"):
            base_directory(missing)


def test_a_base_model_that_is_not_named_says_how_to_name_it():
    with pytest.raises(
        UsageError, match=r"^train\.llava\.base_model .* --set or MMRAG_TRAIN__LLAVA__BASE_MODEL$"
    ):
        base_directory("")


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_base(settings(tmp_path), "cpu")


def test_another_architecture_is_refused(tmp_path):
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"is a 'llama' model; wanted a llava"):
        load_base(settings(tmp_path), "cpu")


def test_weights_that_are_missing_are_refused_not_made_up(tmp_path):
    save_tiny_llava(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    dropped = next(name for name in weights if "gate_proj" in name)
    save_file({name: value for name, value in weights.items() if name != dropped}, file, {"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks weights, such as .*gate_proj"):
        load_base(settings(tmp_path), "cpu")


def test_damaged_weights_are_refused(tmp_path):
    save_tiny_llava(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_base(settings(tmp_path), "cpu")


def test_without_peft_the_extra_is_named(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)  # makes the import fail
    config = settings(base)
    with pytest.raises(MissingDependency, match=r"'\.\[train\]'"):
        prepare_trainable(load_base(config, "cpu"), config)


def test_a_base_saved_after_training_loads_again(base, tmp_path):
    load_base(settings(base), "cpu").save_pretrained(tmp_path)
    again = load_base(settings(tmp_path), "cpu")
    assert isinstance(again, LlavaForConditionalGeneration)
    assert not any(parameter.requires_grad for parameter in again.parameters())
