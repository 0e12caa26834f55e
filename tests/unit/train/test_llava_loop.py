from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llava_runs import Job, collate, in_two_processes, micro_batches, new_loop, origin, run, sample, settings
from tiny_llava import save_tiny_llava

from pipelines.core.errors import MmragError
from pipelines.train import llava_checkpoint
from pipelines.train.llava_loop import learning_rate, micro_seed

STEPS = 4
EVERYTHING = {"train_projector": True, "vision_layers": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("base"))


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_the_loss_goes_down(base):
    losses = run(new_loop(settings(base, steps=30)), 30)
    # The frozen random output layer is small: it cannot tell tokens apart by much.
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3


def test_the_loss_is_the_mean_over_the_labelled_tokens_of_all_micro_batches(base):
    config = settings(base)
    loop = new_loop(config)
    batches = micro_batches(config, 0)
    counts = [(batch["labels"][:, 1:] != -100).sum().item() for batch in batches]
    assert len(set(counts)) == len(counts), "the micro-batches are meant to differ in size"
    with torch.no_grad():
        sums = [loop.trainable.loss(batch).item() for batch in batches]
    result = loop.step(batches)
    assert result.loss == pytest.approx(sum(sums) / sum(counts), rel=1e-6)
    assert result.labels == sum(counts)
    assert result.tokens == sum(batch["attention_mask"].sum().item() for batch in batches)
    assert (result.step, loop.steps_done) == (1, 1)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 2), (2, 4), (1, 8)])
def test_how_a_step_is_cut_into_micro_batches_does_not_matter(base, batch_size, accumulate):
    whole = new_loop(settings(base, batch_size=8, accumulate=1, **EVERYTHING))
    cut = new_loop(settings(base, batch_size=batch_size, accumulate=accumulate, **EVERYTHING))
    assert run(cut, STEPS) == pytest.approx(run(whole, STEPS), rel=1e-5)
    assert furthest(cut.trainable.state(), whole.trainable.state()) < 1e-4


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_checkpointing_gives_the_same_losses_with_dropout(base, changes):
    lora = {"r": 4, "dropout": 0.2}
    plain = new_loop(settings(base, lora=lora, **changes))
    checkpointing = new_loop(settings(base, lora=lora, gradient_checkpointing=True, **changes))
    assert run(checkpointing, STEPS) == pytest.approx(run(plain, STEPS), rel=1e-6)
    assert furthest(checkpointing.trainable.state(), plain.trainable.state()) < 1e-5


# Micro-batches differ in tokens, some hold text alone, and dropout is on.
SHAPES: dict[str, dict[str, Any]] = {
    f"{strategy}{' with checkpointing' if checkpointing else ''}": {
        "strategy": strategy,
        "gradient_checkpointing": checkpointing,
        "lora": {"r": 4, "dropout": 0.1},
        **EVERYTHING,
    }
    for strategy in ("ddp", "fsdp")
    for checkpointing in (False, True)
}
BFLOAT16 = {"strategy": "fsdp", "dtype": "bfloat16", **EVERYTHING}


@pytest.fixture(scope="module")
def two_workers(base, tmp_path_factory):
    """{shape: (figures of two workers, their checkpoint)}, of one pair of processes, which start slowly."""
    shapes = SHAPES | {"bfloat16": BFLOAT16}
    jobs = [
        Job(settings(base, accumulate=2, num_workers=2, **shape), STEPS, tmp_path_factory.mktemp("job"))
        for shape in shapes.values()
    ]
    figures = in_two_processes(jobs)
    return {name: (one, job.out / "checkpoint") for name, one, job in zip(shapes, figures, jobs, strict=True)}


@pytest.mark.parametrize("name", SHAPES)
def test_two_workers_give_the_losses_and_weights_of_one(base, two_workers, name):
    two, checkpoint = two_workers[name]
    config = settings(base, accumulate=4, **SHAPES[name])
    alone = new_loop(config)
    assert two["losses"] == pytest.approx(run(alone, STEPS), rel=1e-5)
    assert furthest(two["weights"], alone.trainable.state()) < 1e-4
    evaluation = alone.evaluate(collate([sample(ordinal)]) for ordinal in range(4))
    assert two["evaluation"] == pytest.approx(evaluation, rel=1e-5)

    resumed = new_loop(config)  # one worker goes on where two stopped
    llava_checkpoint.load(checkpoint, resumed.trainable, resumed, origin(base))
    assert run(resumed, STEPS + 2) == pytest.approx(run(alone, STEPS + 2), rel=1e-5)


def test_a_sharded_bfloat16_base_trains_as_an_unsharded_one(base, two_workers):
    alone = new_loop(settings(base, accumulate=4, **BFLOAT16))
    assert two_workers["bfloat16"][0]["losses"] == pytest.approx(run(alone, STEPS), rel=1e-2)


def test_evaluation_is_the_mean_over_tokens_and_changes_nothing(base):
    loop = new_loop(settings(base, lora={"r": 4, "dropout": 0.5}))
    before = loop.trainable.state()
    apart = loop.evaluate([collate([sample(ordinal)]) for ordinal in range(5)])
    together = loop.evaluate(iter([collate([sample(ordinal) for ordinal in range(5)])]))
    assert apart == pytest.approx(together, rel=1e-6)
    assert furthest(loop.trainable.state(), before) == 0


def test_evaluation_without_labels_is_an_error(base):
    with pytest.raises(MmragError, match="no token with a label"):
        new_loop(settings(base)).evaluate([])


def test_the_learning_rate_warms_up_and_falls_along_a_cosine(base):
    config = settings(base, learning_rate=1.0, warm_up=2, steps=6)
    rates = [learning_rate(config, done) for done in range(7)]
    # 4 steps after warm-up: (1 + cos(pi k / 4)) / 2.
    half = math.sqrt(0.5)
    assert rates == pytest.approx([0.5, 1, 1, (1 + half) / 2, 0.5, (1 - half) / 2, 0])
    assert new_loop(config).step(micro_batches(config, 0)).learning_rate == 0.5


def test_the_gradient_is_clipped_and_its_norm_before_that_is_told(base):
    config = settings(base, clip_norm=0.0)
    free = new_loop(config).step(micro_batches(config, 0))
    clipped_loop = new_loop(settings(base, clip_norm=free.grad_norm / 10))
    clipped = clipped_loop.step(micro_batches(config, 0))
    assert clipped.grad_norm == pytest.approx(free.grad_norm, rel=1e-6)
    # AdamW's first moment after one step is (1 - .9) of the gradient that it was given.
    moments = clipped_loop.state().optimizer
    first = [value for name, value in moments.items() if name.endswith(":exp_avg")]
    norm = torch.stack([value.norm() for value in first]).norm().item() / 0.1
    assert norm == pytest.approx(free.grad_norm / 10, rel=1e-3)


def test_biases_and_norms_do_not_decay(base):
    config = settings(base, learning_rate=0.1, weight_decay=0.5, warm_up=0, steps=100, **EVERYTHING)
    loop = new_loop(config)
    before = loop.trainable.state()
    batch = collate([sample(2)])  # text alone: what sees pictures has a gradient of 0, so only decay acts
    loop.step([batch])
    after = loop.trainable.state()
    for name in loop.trainable.thawed:
        kept = 1.0 if before[name].ndim == 1 else 0.95  # 1 - 0.1 * 0.5
        assert torch.allclose(after[name], kept * before[name], rtol=1e-5), name


def test_a_loss_that_is_no_number_stops_before_the_weights_change_and_names_step_and_samples(base):
    config = settings(base, train_projector=True)
    loop = new_loop(config)
    loop.step(micro_batches(config, 0))
    before = loop.trainable.state()
    bad = collate([sample(0), sample(1)])
    bad["pixel_values"][0] = torch.nan
    with pytest.raises(MmragError, match=r"step 2: the loss is nan \(samples sample-0, sample-1\)"):
        loop.step([collate([sample(3)]), bad])
    assert furthest(loop.trainable.state(), before) == 0
    assert loop.steps_done == 1
    assert math.isfinite(loop.step(micro_batches(config, 1)).loss)


def test_a_step_without_any_label_is_an_error_that_names_the_samples(base):
    batch = collate([sample(4)])
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(MmragError, match=r"step 1: no sample has a token to learn from \(samples sample-4\)"):
        new_loop(settings(base)).step([batch])


def test_the_seeds_of_micro_batches_are_all_different():
    seeds = {micro_seed(seed, step, place) for seed in range(5) for step in range(20) for place in range(8)}
    assert len(seeds) == 5 * 20 * 8


WHOLE = {"train_all": True, "lora": {"r": 0}}


def test_muon_moves_hidden_matrices_and_adamw_the_rest(base):
    config = settings(base, optimizer="muon", warm_up=0, weight_decay=0.0, **WHOLE)
    loop = new_loop(config)
    before = loop.trainable.state()
    loop.step(micro_batches(config, 0))
    after, kinds = loop.trainable.state(), {key.rpartition(":")[::2] for key in loop.state().optimizer}
    by_muon = {name for name, kind in kinds if kind == "momentum_buffer"}
    assert by_muon == {
        name
        for name, value in before.items()
        if value.ndim == 2 and "embed" not in name and "lm_head" not in name
    }
    assert {name for name, kind in kinds if kind == "exp_avg"} == before.keys() - by_muon
    for name in by_muon:
        # An orthogonal step, scaled to AdamW's: an entry moves by about a fifth of the learning rate; by less
        # where the gradient has a low rank.
        moved = (after[name] - before[name]).square().mean().sqrt().item()
        assert 0 < moved < 0.3 * config.learning_rate, name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_loop_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(base, tmp_path, optimizer):
    config = settings(base, optimizer=optimizer, **WHOLE)
    alone, stopped, resumed = (new_loop(config) for _ in range(3))
    run(stopped, 3)
    llava_checkpoint.save(tmp_path / "checkpoint", stopped.trainable, stopped, origin(base))
    llava_checkpoint.load(tmp_path / "checkpoint", resumed.trainable, resumed, origin(base))
    assert run(resumed, 6) == pytest.approx(run(alone, 6)[3:], rel=1e-5)
    other = new_loop(settings(base, optimizer="muon" if optimizer == "adamw" else "adamw", **WHOLE))
    with pytest.raises(MmragError, match="optimizer"):
        llava_checkpoint.load(tmp_path / "checkpoint", other.trainable, other, origin(base))


def test_muon_hardly_minds_how_a_step_is_cut(base):
    """Its steps are computed in bfloat16: not to the last digit."""
    shape = {"optimizer": "muon", **WHOLE}
    whole = new_loop(settings(base, batch_size=8, accumulate=1, **shape))
    cut = new_loop(settings(base, batch_size=2, accumulate=4, **shape))
    assert run(cut, STEPS) == pytest.approx(run(whole, STEPS), rel=1e-3)


def test_a_batch_that_is_padded_on_the_left_is_a_mistake_of_ours(base):
    config = settings(base)
    batch = micro_batches(config, 0)[0]
    batch["attention_mask"] = batch["attention_mask"].flip(1)
    with pytest.raises(AssertionError, match="padded on the left"):
        new_loop(config).step([batch])


@pytest.mark.slow
@pytest.mark.parametrize("changes", [WHOLE, {"gradient_checkpointing": True, **EVERYTHING}])
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a compiler")
def test_a_compiled_model_learns_the_same(base, changes):
    plain, compiled = (new_loop(settings(base, compile=it, **changes)) for it in (False, True))
    assert run(compiled, STEPS) == pytest.approx(run(plain, STEPS), rel=1e-4)
    assert compiled.trainable.state().keys() == plain.trainable.state().keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 trains on GPUs only")
def test_float16_learns_with_a_scaled_loss(base):
    from llava_runs import prepare_trainable

    from pipelines.train.llava_loop import Loop, Place
    from pipelines.train.llava_model import load_base

    config = settings(base, dtype="float16", use_gpu=True, steps=30)
    trainable = prepare_trainable(load_base(config, "cuda"), config, "cuda")
    losses = run(Loop(trainable, config, Place(device="cuda")), 30)
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3
