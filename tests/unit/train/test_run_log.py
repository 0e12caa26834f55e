"""The figures of a training run on disk."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import pytest
from fakes import Recorded
from PIL import Image

from pipelines.core.errors import MissingDependency
from pipelines.train.run_log import STEPS_FILE, RunLog, draw_curve, followed, read_steps, require_curve


def test_a_run_that_is_taken_up_again_replaces_the_steps_that_it_repeats(tmp_path: Path) -> None:
    with RunLog(tmp_path, first_step=1, steps=120) as log:
        for step in (1, 2, 3, 4):
            log.write(step, {"loss": float(step)})
    with RunLog(tmp_path, first_step=3, steps=4) as log:
        log.write(3, {"loss": 30.0})
    assert read_steps(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 30.0},
    ]


def test_a_step_is_recorded_for_whoever_watches_the_run(tmp_path: Path) -> None:
    record = Recorded()
    with RunLog(tmp_path, 1, 9, partial(record, model="llava")) as log:
        log.write(1, {"loss": 2.5, "grad_norm": 0.5, "tokens": 300, "learning_rate": 1e-3})
        log.write(2, {"loss": 2.0, "grad_norm": 0.4, "tokens": 200, "learning_rate": 2e-3})
        log.write(2, {"eval_loss": 2.25})
    assert record.counted == {("mmrag_train_tokens", "llava"): 500}
    assert record.gauges == {
        ("mmrag_train_step", "llava"): 2,
        ("mmrag_train_loss", "llava"): 2.0,
        ("mmrag_train_grad_norm", "llava"): 0.4,
        ("mmrag_train_learning_rate", "llava"): 2e-3,
        ("mmrag_train_eval_loss", "llava"): 2.25,
    }


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / STEPS_FILE).write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_steps(tmp_path) == [{"step": 1, "loss": 2.5}]


def test_the_curve_is_a_picture(tmp_path: Path) -> None:
    with RunLog(tmp_path, first_step=1, steps=120) as log:
        for step in range(1, 121):
            log.write(step, {"loss": 3.0 / step} | ({"eval_loss": 4.0 / step} if step % 40 == 0 else {}))
    with Image.open(draw_curve(tmp_path, "a run")) as picture:
        assert picture.size == (960, 540)
        assert len(picture.convert("RGB").getcolors(maxcolors=2**20) or []) > 10


def test_a_curve_wants_matplotlib_which_can_be_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_curve()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (require_curve, partial(draw_curve, tmp_path, "a run")):
        with pytest.raises(MissingDependency, match=r"'\.\[train\]'"):
            call()


def test_a_run_has_a_tensorboard_log(tmp_path: Path) -> None:
    with RunLog(tmp_path, first_step=1, steps=120) as log:
        log.write(1, {"loss": 1.0})
    assert [path.stat().st_size > 0 for path in (tmp_path / "tensorboard").iterdir()] == [True]


def test_whoever_follows_a_run_hears_how_far_it_is(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    with followed(tmp_path, lambda *told: heard.append(told)), RunLog(tmp_path, first_step=1, steps=9) as log:
        log.write(7, {"loss": 1.0})
        while not heard:
            time.sleep(0.05)
    assert heard[0] == ("training", 7, 9)
    assert not list(tmp_path.glob("*progress*"))
