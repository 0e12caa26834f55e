from __future__ import annotations

from pathlib import Path

import pytest
from llava_runs import settings
from shell import mmrag
from tiny_llava import save_tiny_llava

from pipelines.core.errors import UsageError
from pipelines.train.llava_fit import _remedies, fit_report


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for its activations to stand out from the libraries' own memory."""
    return save_tiny_llava(tmp_path_factory.mktemp("base"), hidden=256, layers=8)


def test_a_shape_that_fits_is_told_with_what_is_left(base):
    report = fit_report(settings(base, max_tokens=64))
    assert report.asked.fits
    assert report.remedies == ()
    assert report.asked.spare_bytes == report.available_bytes - report.asked.peak_bytes
    assert report.asked.peak_bytes > 50 * 2**20
    assert "as asked" in report.lines()[1]
    assert "to spare" in report.lines()[1]
    assert report.as_dict()["asked"]["fits"] is True


def test_the_command_says_whether_a_step_fits(base, tmp_path):
    """It reads no data: a step is tried with samples of its own."""
    asked = settings(base, max_tokens=64).model_dump(include={"base_model", "dtype", "max_tokens"})
    chosen = [word for name, value in asked.items() for word in ("--set", f"train.llava.{name}={value}")]
    told = mmrag("train", "llava", "--data", tmp_path / "mine.jsonl", "--fit", *chosen)
    assert (told.status, told.err) == (0, "")
    free, verdict = told.out.splitlines()
    assert "GiB are free on cpu" in free
    assert verdict.startswith("as asked: ")
    assert verdict.endswith(" GiB to spare")


def test_what_would_take_less_memory_is_tried_and_told(base):
    report = fit_report(settings(base, max_tokens=1024, batch_size=2, accumulate=2), available_bytes=2**20)
    assert [one.change for one in report.remedies] == [
        "gradient_checkpointing=true",
        "batch_size=1 accumulate=4",
        "gradient_checkpointing=true batch_size=1 accumulate=4",
    ]
    checkpointing, smaller, both = (one.peak_bytes for one in report.remedies)
    assert report.asked.peak_bytes > checkpointing > both
    assert report.asked.peak_bytes > smaller > both
    assert not any(one.fits for one in (report.asked, *report.remedies))  # the libraries alone take more
    assert report.asked.spare_bytes == 2**20 - report.asked.peak_bytes
    assert all("GiB too much" in line for line in report.lines()[1:])


def test_what_training_would_refuse_is_refused(base, tmp_path):
    with pytest.raises(UsageError, match="a picture alone takes 16 tokens"):
        fit_report(settings(base, max_tokens=16))
    with pytest.raises(UsageError, match="neither a model directory"):
        fit_report(settings(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {"nf4", "fsdp"}),
        ({"compile": True}, {"nf4", "fsdp"}),
        ({"train_all": True, "lora": {"r": 0}}, {"fsdp"}),
        ({"train_all": True, "lora": {"r": 0}, "optimizer": "muon", "compile": True}, set()),
    ],
)
def test_a_gpu_is_offered_what_goes_with_the_other_settings(tmp_path, changes, wanted):
    found = [changed for _, changed in _remedies(settings(tmp_path, use_gpu=True, **changes))]
    assert {one.quantize for one in found} - {"none"} | {one.strategy for one in found} - {"ddp"} == wanted
