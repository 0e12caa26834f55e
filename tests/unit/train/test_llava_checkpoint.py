from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from llava_runs import collate, new_loop, origin, run, sample, settings
from peft import PeftModel
from tiny_llava import save_tiny_llava

from pipelines.core.errors import MmragError, UsageError
from pipelines.train.llava_checkpoint import load, made_by, read_info, require_own, save
from pipelines.train.llava_model import load_base

DROPOUT = {"r": 4, "alpha": 8, "dropout": 0.2}
STEPS = 7


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=["adapters", "everything", "no adapters", "all weights"])
def uninterrupted(request, base, tmp_path_factory):
    """(settings, losses, a checkpoint after every step) of a run with dropout."""
    learns = {
        "adapters": {"lora": DROPOUT},
        "everything": {"lora": DROPOUT, "train_projector": True, "vision_layers": 1},
        "no adapters": {"lora": {"r": 0}, "train_projector": True},
        "all weights": {"lora": {"r": 0}, "train_all": True},
    }[request.param]
    config = settings(base, steps=STEPS, **learns)
    loop, losses = new_loop(config), []
    out = tmp_path_factory.mktemp("checkpoints")
    for step in range(STEPS):
        save(out / str(step), loop.trainable, loop, origin(base))
        losses += run(loop, step + 1)
    return config, losses, out


@pytest.mark.parametrize("killed_after", [0, 1, 3, 6])
def test_a_resumed_run_has_the_losses_of_an_uninterrupted_one(uninterrupted, base, killed_after):
    config, losses, checkpoints = uninterrupted
    torch.manual_seed(12345)  # another process has another random state
    resumed = new_loop(config)
    info = load(checkpoints / str(killed_after), resumed.trainable, resumed, origin(base))
    assert info.step == killed_after
    assert run(resumed, STEPS) == losses[killed_after:]


@pytest.fixture
def trained(base):
    loop = new_loop(settings(base, lora=DROPOUT))
    run(loop, 2)
    return loop


def test_peft_reads_the_adapter(trained, base, tmp_path):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    loaded = PeftModel.from_pretrained(load_base(trained.config, "cpu"), tmp_path / "c" / "adapter").eval()
    batch = {name: value for name, value in collate([sample(0)]).items() if name != "ids"}
    with torch.no_grad():
        theirs = loaded(**batch).logits
        ours = trained.trainable.llava.eval()(**batch).logits
        before = load_base(trained.config, "cpu").eval()(**batch).logits
    assert torch.allclose(theirs, ours, atol=1e-6)
    assert not torch.allclose(before, ours, atol=1e-3)


def test_a_checkpoint_of_another_base_model_is_refused_and_nothing_is_changed(trained, base, tmp_path):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    other = save_tiny_llava(tmp_path / "other", seed=1)  # of the same shape
    loop = new_loop(settings(other, lora=DROPOUT))
    before = loop.trainable.state()
    with pytest.raises(UsageError, match=r"these differ: the base model \('other' here"):
        load(tmp_path / "c", loop.trainable, loop, origin(other))
    after = loop.trainable.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loop.steps_done == 0


@pytest.mark.parametrize(
    ("changed", "now", "says"),
    [
        ({}, {"data_hash": "e"}, "the training data"),
        ({}, {"prompt_version": "2"}, "the prompt"),
        ({}, {"eval_hash": "f"}, "the evaluation data"),
        ({"seed": 1}, {}, "seed"),
        ({"group_by_length": True}, {}, "group_by_length .True here, False there"),
        ({"image_root": "/pictures"}, {}, "image_root ./pictures here, None there"),
        ({"accumulate": 2}, {}, "global_batch .4 here, 8 there"),
        ({"lora": {"r": 8}}, {}, "lora"),
        ({"vision_layers": 1}, {}, "vision_layers"),
        ({"train_all": True, "lora": {"r": 0}}, {}, "lora .*train_all"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(trained, base, tmp_path, changed, now, says):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    loop = new_loop(settings(base, **{"lora": DROPOUT} | changed))
    with pytest.raises(UsageError, match=f"belongs to another run, these differ: {says}"):
        load(tmp_path / "c", loop.trainable, loop, origin(base, **now))


def test_samples_grouped_by_length_are_grouped_by_the_batch_size(base, tmp_path):
    loop = new_loop(settings(base, group_by_length=True))
    save(tmp_path / "c", loop.trainable, loop, origin(base))
    changed = settings(base, group_by_length=True, batch_size=4, accumulate=2)
    with pytest.raises(
        UsageError, match=r"these differ: batch_size \(4 here, 2 there, which group_by_length"
    ):
        require_own([tmp_path / "c"], changed, origin(base))


def of_an_earlier_version(checkpoint, **config):
    """Without what was not recorded then."""
    file = checkpoint / "checkpoint.json"
    told = json.loads(file.read_bytes())
    del told["eval_hash"]
    file.write_text(json.dumps(told | {"config": told["config"] | config}))


def test_a_checkpoint_of_an_earlier_version_is_taken_up(trained, base, tmp_path):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    of_an_earlier_version(tmp_path / "c", eval_data="val.jsonl", image_root="pictures")
    now = settings(base, lora=DROPOUT, eval_data="/moved/val.jsonl", image_root="/data/pictures")
    loop = new_loop(now)
    assert load(tmp_path / "c", loop.trainable, loop, origin(base, eval_hash="f")).step == 2
    with pytest.raises(UsageError, match="these differ: the evaluation data"):
        require_own([tmp_path / "c"], settings(base, lora=DROPOUT), origin(base))


def test_pictures_that_moved_are_found_through_a_link(base, tmp_path):
    there, moved = tmp_path / "there", tmp_path / "moved"
    loop = new_loop(settings(base, image_root=there))
    save(tmp_path / "c", loop.trainable, loop, origin(base))
    moved.mkdir()
    with pytest.raises(UsageError, match="these differ: image_root"):
        require_own([tmp_path / "c"], settings(base, image_root=moved), origin(base))
    there.symlink_to(moved)
    for root in (there, moved, moved / ".." / "there"):
        require_own([tmp_path / "c"], settings(base, image_root=root), origin(base))


def test_a_run_is_known_by_its_settings_and_data(trained, base, tmp_path):
    config, now = settings(base, lora=DROPOUT, eval_data="val.jsonl"), origin(base, eval_hash="f")
    loop = new_loop(config)
    save(tmp_path / "c", loop.trainable, loop, now)
    assert made_by(tmp_path / "c", config, now)
    assert not made_by(tmp_path / "c", config, origin(base, eval_hash="g"))
    assert not made_by(tmp_path / "c", config.model_copy(update={"steps": 9}), now)
    of_an_earlier_version(tmp_path / "c", image_root="pictures")
    in_place = config.model_copy(update={"image_root": tmp_path / "pictures"})
    assert made_by(tmp_path / "c", in_place, now)


def test_a_checkpoint_that_was_cut_short_says_nothing_of_its_run(base, tmp_path):
    (tmp_path / "checkpoint.json").write_text("{")
    require_own([tmp_path, tmp_path / "gone"], settings(base), origin(base))
    assert not made_by(tmp_path, settings(base), origin(base))


def test_what_does_not_matter_may_change(trained, base, tmp_path):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    changed = settings(
        base, lora=DROPOUT, batch_size=4, accumulate=2, gradient_checkpointing=True, save_steps=7, steps=20
    )
    loop = new_loop(changed)
    assert load(tmp_path / "c", loop.trainable, loop, origin(base)).step == 2


def test_a_full_disk_is_an_error_and_leaves_the_last_checkpoint(trained, base, tmp_path):
    directory = tmp_path / "c"
    save(directory, trained.trainable, trained, origin(base))
    run(trained, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the adapter's weights do not fit
    try:
        with pytest.raises(MmragError, match=r"cannot be written \(File too large\); earlier ones are as"):
            save(directory, trained.trainable, trained, origin(base))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resumed = new_loop(trained.config)
    assert load(directory, resumed.trainable, resumed, origin(base)).step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["c"], "nothing half written stays"
    save(directory, trained.trainable, trained, origin(base))  # there is room again
    assert read_info(directory).step == 3


def test_a_place_that_cannot_be_written_is_an_error(trained, base, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MmragError, match="cannot be written"):
        save(tmp_path / "file" / "c", trained.trainable, trained, origin(base))


SAVE_FOR_EVER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from llava_runs import new_loop, origin, run, settings
from pipelines.train.llava_checkpoint import save
loop = new_loop(settings(Path({base!r})))
run(loop, 1)
while True:
    save(Path({out!r}), loop.trainable, loop, origin(Path({base!r})))
    print("saved", flush=True)
"""


@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.011, 0.023])
def test_a_worker_killed_while_it_writes_leaves_a_checkpoint_that_loads(base, tmp_path, delay_s):
    out = tmp_path / "c"
    program = SAVE_FOR_EVER.format(path=sys.path, base=str(base), out=str(out))
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"saved\n"
    time.sleep(delay_s)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    loop = new_loop(settings(base))
    assert load(out, loop.trainable, loop, origin(base)).step == 1


def test_a_replacement_cut_off_between_its_two_renames_is_undone(trained, base, tmp_path):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    (tmp_path / "c").rename(tmp_path / ".c.replaced")
    assert read_info(tmp_path / "c").step == 2


@pytest.mark.parametrize("file", ["optimizer.safetensors", "adapter/adapter_model.safetensors"])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_changed(trained, base, tmp_path, file):
    save(tmp_path / "c", trained.trainable, trained, origin(base))
    damaged = tmp_path / "c" / file
    damaged.write_bytes(damaged.read_bytes()[:-100])
    loop = new_loop(trained.config)
    before = loop.trainable.state()
    with pytest.raises(UsageError, match="missing or damaged"):
        load(tmp_path / "c", loop.trainable, loop, origin(base))
    after = loop.trainable.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert loop.steps_done == 0


def test_a_directory_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no checkpoint"):
        read_info(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(UsageError, match="damaged or of another version"):
        read_info(tmp_path)


def test_figures_and_settings_come_back(trained, base, tmp_path):
    save(tmp_path / "c", trained.trainable, trained, origin(base), {"eval_loss": 1.5})
    info = read_info(tmp_path / "c")
    assert info.figures == {"eval_loss": 1.5}
    assert info.config == trained.config
