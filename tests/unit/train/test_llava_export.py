from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_llava import IMAGE_TOKENS, SIDE, TEMPLATE
from transformers import AutoProcessor, LlavaForConditionalGeneration
from tuned_llava import as_on_a_hub, save_base, save_tuned

from pipelines.core.adapter import read_manifest
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.grounding import FrameConfig
from pipelines.train.llava_checkpoint import read_info
from pipelines.train.llava_export import Kind, export_llava, require_room
from pipelines.train.llava_plan import Origin


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")  # with the names of transformers 5


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    torch.manual_seed(2)
    words = torch.randint(4, 200, (1, 9))
    tokens = torch.cat([torch.tensor([[1]]), torch.full((1, IMAGE_TOKENS), 3), words], dim=1)
    answer: torch.Tensor = model.eval()(input_ids=tokens, pixel_values=torch.randn(1, 3, SIDE, SIDE)).logits
    return answer


def load(directory: Path) -> LlavaForConditionalGeneration:
    """As anybody would, and nothing may be missing, left over or made up."""
    model, found = LlavaForConditionalGeneration.from_pretrained(
        directory, output_loading_info=True, dtype="auto"
    )
    assert not any(found.values()), found
    return model


def test_the_merged_model_computes_what_the_trained_one_did(tmp_path: Path, base: Path) -> None:
    tuned = save_tuned(base, tmp_path / "last", train_projector=True, vision_layers=1)
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    merged = logits(load(tmp_path / "out"))
    torch.testing.assert_close(merged, logits(tuned.llava), rtol=1e-4, atol=1e-4)
    assert (merged - logits(load(base))).abs().max() > 0.5


def test_merged_weights_have_the_names_that_vllm_reads(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    known = ("vision_tower.vision_model.", "language_model.model.", "multi_modal_projector.")
    assert {name for name in names if not name.startswith(known)} == {"language_model.lm_head.weight"}
    assert len(names) == len(load_file(base / "model.safetensors"))


def test_what_was_not_trained_is_the_base_models_to_the_bit(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last", vision_layers=1)
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    before, after = load(base).state_dict(), load(tmp_path / "out").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = ("model.vision_tower.encoder.layers.1.", "model.language_model.layers.")
    assert {name for name in changed if not name.startswith(trained)} == set()
    assert {name for name in changed if "vision" in name}


def test_merging_rounds_once_to_the_base_models_type(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16)
    tuned = save_tuned(base, tmp_path / "last")
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    name = "model.language_model.layers.1.mlp.down_proj"
    layer = tuned.llava.get_submodule(name)
    exact = layer.base_layer.weight + layer.get_delta_weight("default")
    merged = load(tmp_path / "out").state_dict()
    assert torch.equal(merged[f"{name}.weight"], exact.to(torch.bfloat16))
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}


def test_weights_in_several_files_stay_so(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", max_shard_size="200KB")
    tuned = save_tuned(base, tmp_path / "last")
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(tuned.llava), rtol=1e-4, atol=1e-4)


def test_the_processor_and_its_template_come_along(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.chat_template == TEMPLATE
    assert processor.image_processor.crop_size["height"] == SIDE


def test_an_adapter_runs_on_its_base(tmp_path: Path, base: Path) -> None:
    tuned = save_tuned(base, tmp_path / "last")
    export_llava(tmp_path / "last", tmp_path / "out", "adapter")
    answered = logits(PeftModel.from_pretrained(load(base), tmp_path / "out"))
    torch.testing.assert_close(answered, logits(tuned.llava), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", [{"train_projector": True}, {"vision_layers": 1}])
def test_only_merged_is_offered_where_more_than_the_language_model_learnt(
    tmp_path: Path, base: Path, more: dict[str, Any]
) -> None:
    save_tuned(base, tmp_path / "last", **more)
    with pytest.raises(UsageError, match="use --export merged"):
        export_llava(tmp_path / "last", tmp_path / "out", "adapter")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("learnt", ["train_projector", "train_language", "train_all"])
def test_a_model_without_adapters_is_merged(tmp_path: Path, base: Path, learnt: str) -> None:
    tuned = save_tuned(base, tmp_path / "last", rank=0, **{learnt: True})
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(tuned.llava), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "option"), [(16, ""), (17, "max_lora_rank 32"), (64, "max_lora_rank 64")])
def test_a_rank_that_vllm_must_be_told_of_is_said(tmp_path: Path, base: Path, rank: int, option: str) -> None:
    save_tuned(as_on_a_hub(base), tmp_path / "last", rank=rank)
    warnings = export_llava(tmp_path / "last", tmp_path / "out", "adapter").warnings
    assert option in " ".join(warnings)
    assert bool(warnings) == bool(option)


def test_a_base_model_that_vllm_cannot_read_is_said(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    assert "names of transformers 5" in export_llava(tmp_path / "last", tmp_path / "a", "adapter").warnings[0]
    as_on_a_hub(base)
    assert export_llava(tmp_path / "last", tmp_path / "b", "adapter").warnings == ()


def test_the_manifest_says_what_the_export_belongs_to(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    exported = export_llava(tmp_path / "last", tmp_path / "out", "adapter")
    manifest = read_manifest(tmp_path / "out")
    assert manifest == exported.manifest
    assert (manifest.kind, manifest.base.name, manifest.data_hash) == ("adapter", "base", "sha256-of-data")
    assert (manifest.rank, manifest.prompt_version) == (4, "1")


def test_another_base_model_is_refused(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    other = save_base(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="not the one that was trained on"):
        export_llava(tmp_path / "last", tmp_path / "out", "merged", base_model=str(other))


def test_a_base_model_that_moved_is_found_where_it_is_said_to_be(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    moved = base.rename(tmp_path / "moved")
    export_llava(tmp_path / "last", tmp_path / "out", "merged", base_model=str(moved))
    load(tmp_path / "out")


def test_nothing_is_written_over(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match="not empty"):
        export_llava(tmp_path / "last", out, "merged")
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    export_llava(tmp_path / "last", out, "merged")


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_a_finished_export_is_left_as_it_is(tmp_path: Path, base: Path, kind: Kind) -> None:
    """A job that is started again gives the same command."""
    save_tuned(base, tmp_path / "last")
    first = export_llava(tmp_path / "last", tmp_path / "out", kind)
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    again = export_llava(tmp_path / "last", tmp_path / "out", kind)
    assert again.manifest == first.manifest
    assert again.warnings[:-1] == first.warnings
    assert "of step 0 and the same data: it is left as it is" in again.warnings[-1]
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_an_export_of_another_step_is_not_written_over(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    manifest = export_llava(tmp_path / "last", tmp_path / "out", "merged").manifest
    manifest.model_copy(update={"step": 7}).write(tmp_path / "out")
    with pytest.raises(UsageError, match="not empty"):
        export_llava(tmp_path / "last", tmp_path / "out", "merged")


def test_an_export_of_other_settings_at_the_same_step_is_not_taken_for_this_one(
    tmp_path: Path, base: Path
) -> None:
    save_tuned(base, tmp_path / "last")
    save_tuned(base, tmp_path / "other", learning_rate=1e-3)
    export_llava(tmp_path / "other", tmp_path / "out", "merged")
    with pytest.raises(UsageError, match=r"not empty \(an export of step 0\)"):
        export_llava(tmp_path / "last", tmp_path / "out", "merged")


def test_an_export_of_an_earlier_version_is_left_as_it_is(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    manifest = export_llava(tmp_path / "last", tmp_path / "out", "adapter").manifest
    earlier = manifest.model_copy(update={"checkpoint": None, "run": None, "mmrag_version": "0.0.1"})
    earlier.write(tmp_path / "out")
    assert "it is left as it is" in export_llava(tmp_path / "last", tmp_path / "out", "adapter").warnings[-1]
    assert read_manifest(tmp_path / "out") == earlier


def test_an_export_of_the_same_run_is_replaced_where_that_is_said(tmp_path: Path, base: Path) -> None:
    tuned = save_tuned(base, tmp_path / "last")
    out = tmp_path / "out"
    new = export_llava(tmp_path / "last", out, "merged").manifest
    new.model_copy(update={"step": 7}).write(out)
    (out / "model.safetensors").write_bytes(b"another step's")
    again = export_llava(tmp_path / "last", out, "merged", replace=True)
    assert "was an export of this run's step 7: it is replaced" in again.warnings[-1]
    assert read_manifest(out) == new
    torch.testing.assert_close(logits(load(out)), logits(tuned.llava), rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "last", "out"]


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_an_export_behind_a_link_is_replaced_there(tmp_path: Path, base: Path, kind: Kind) -> None:
    save_tuned(base, tmp_path / "last")
    large, out = tmp_path / "large" / "disk", tmp_path / "out"
    large.mkdir(parents=True)
    out.symlink_to(large)
    new = export_llava(tmp_path / "last", out, kind).manifest
    new.model_copy(update={"step": 7}).write(out)
    (large.parent / ".disk.replaced").mkdir()  # of a replacement that was killed at its end
    export_llava(tmp_path / "last", out, kind, replace=True)
    assert out.readlink() == large
    assert read_manifest(large) == new
    assert [path.name for path in large.parent.iterdir()] == ["disk"]


@pytest.mark.parametrize("changed", [{"learning_rate": 1e-3}, {"seed": 7}])
def test_an_export_of_another_run_is_never_replaced(
    tmp_path: Path, base: Path, changed: dict[str, Any]
) -> None:
    save_tuned(base, tmp_path / "last")
    save_tuned(base, tmp_path / "other", **changed)
    held = export_llava(tmp_path / "other", tmp_path / "out", "merged").manifest
    for manifest in (
        held,
        held.model_copy(update={"run": None, "step": 7}),
    ):  # an earlier version tells no run
        manifest.write(tmp_path / "out")
        with pytest.raises(UsageError, match="not empty"):
            export_llava(tmp_path / "last", tmp_path / "out", "merged", replace=True)
        assert read_manifest(tmp_path / "out") == manifest


def test_what_is_more_than_an_export_is_never_replaced(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    manifest = export_llava(tmp_path / "last", tmp_path / "out", "merged").manifest
    manifest.model_copy(update={"step": 7}).write(tmp_path / "out")
    (tmp_path / "out" / "card.md").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match="files beside the export"):
        export_llava(tmp_path / "last", tmp_path / "out", "merged", replace=True)
    assert (tmp_path / "out" / "card.md").read_text("utf-8") == "mine"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match="not empty"):
        export_llava(tmp_path / "last", tmp_path / "mine", "merged", replace=True)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["config.json"]


def test_room_for_an_export_is_known_before_the_training(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    info, out = read_info(tmp_path / "last"), tmp_path / "merged"
    of = Origin(info.base, info.data_hash, info.prompt_version)
    require_room(out, "merged", info.config, of, base, taken_up=False)
    out.mkdir()
    require_room(out, "merged", info.config, of, base, taken_up=False)
    export_llava(tmp_path / "last", out, "merged")
    require_room(out, "merged", info.config, of, base, taken_up=True)  # which it is to replace
    with pytest.raises(UsageError, match=r"not empty \(an export of another run, of step 0\): move"):
        require_room(out, "merged", info.config, of, base, taken_up=False)
    other = info.config.model_copy(update={"frame": FrameConfig(fit="squash")})
    with pytest.raises(UsageError, match="an export of another run"):
        require_room(out, "merged", other, of, base, taken_up=True)
    (out / "card.md").write_text("mine", "utf-8")
    with pytest.raises(UsageError, match=r"not empty \(files beside the export, such as 'card.md'\): move"):
        require_room(out, "merged", info.config, of, base, taken_up=True)
    (out / "mmrag.json").write_text("{")
    with pytest.raises(UsageError, match="not empty: an export whose manifest cannot be read: move it away"):
        require_room(out, "merged", info.config, of, base, taken_up=True)
    (out / "mmrag.json").unlink()
    with pytest.raises(UsageError, match="not empty: move it away"):
        require_room(out, "merged", info.config, of, base, taken_up=True)


def test_an_export_that_was_killed_is_written_anew(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    left = tmp_path / ".out.partial"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    export_llava(tmp_path / "last", tmp_path / "out", "merged")
    load(tmp_path / "out")
    assert not left.exists()


def test_a_failed_export_leaves_nothing(tmp_path: Path, base: Path) -> None:
    save_tuned(base, tmp_path / "last")
    before = sorted(tmp_path.iterdir())
    (tmp_path / "last" / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UsageError, match="damaged"):
        export_llava(tmp_path / "last", tmp_path / "out", "merged")
    with pytest.raises(MmragError):
        export_llava(tmp_path / "last", base / "config.json" / "out", "merged")
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(UsageError, match="is no checkpoint"):
        export_llava(base, tmp_path / "out", "merged")
