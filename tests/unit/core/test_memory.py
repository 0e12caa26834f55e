"""Whether a generator fits, by figures that can be added up by hand."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pipelines.core.errors import MmragError, UsageError
from pipelines.core.memory import Gpu, Need, gpus, host_memory, on_cpu, on_gpu

GIB = 2**30
# LLaVA-1.5-7B in half precision: 14 GiB, and half a MiB a token.
LLAVA_7B = Need(weights=14 * GIB, kv_a_token=2**19, context=4096)


def card(gib: int) -> Gpu:
    return Gpu("H", gib * GIB, gib * GIB)


def test_weights_prompt_and_a_gib_are_added_up() -> None:
    assert LLAVA_7B.total == (14 + 2 + 1) * GIB
    assert str(LLAVA_7B) == "about 17.00 GiB: weights 14.00, a prompt of 4,096 tokens 2.00, to work in 1"


def test_a_model_that_fits_says_so() -> None:
    assert on_gpu(LLAVA_7B, [card(24)], share=0.9, split=1).startswith("fits on H: 21.6 GiB can be used")


def test_a_shorter_prompt_that_would_fit_is_named() -> None:
    # 16 GiB: one to work in, 14 for weights, one for 2,048 tokens of half a MiB.
    with pytest.raises(UsageError, match=r"does not fit.*generator\.max_model_len=2048"):
        on_gpu(LLAVA_7B, [card(16)], share=1.0, split=1)


def test_a_second_card_is_named_where_there_is_one() -> None:
    with pytest.raises(UsageError, match="tensor_parallel_size=2"):
        on_gpu(LLAVA_7B, [card(12), card(12)], share=1.0, split=1)
    assert "2 x H" in on_gpu(LLAVA_7B, [card(12), card(12)], share=1.0, split=2)


def test_more_cards_than_there_are_is_told() -> None:
    with pytest.raises(UsageError, match="here are 1 GPUs"):
        on_gpu(LLAVA_7B, [card(80)], share=1.0, split=2)


def test_memory_that_others_use_does_not_count() -> None:
    with pytest.raises(UsageError, match="does not fit"):
        on_gpu(LLAVA_7B, [Gpu("H", 80 * GIB, 10 * GIB)], share=0.9, split=1)


def test_vllm_starts_only_where_its_share_is_free() -> None:
    """80 GiB, of which it claims 72 and 50 are free; 0.61 of it leave a GiB of those for CUDA."""
    busy = Gpu("H", 80 * GIB, 50 * GIB)
    with pytest.raises(
        UsageError, match=r"72\.0 GiB, and 50\.0 are free.*utilization=0\.61, or a GPU"
    ) as told:
        on_gpu(LLAVA_7B, [busy], share=0.9, split=1)
    assert "does not fit" not in str(told.value)
    assert on_gpu(LLAVA_7B, [busy], share=0.61, split=1).startswith("fits on H: 48.8 GiB")
    assert on_gpu(LLAVA_7B, [busy], share=None, split=1).startswith("fits on H: 50.0 GiB")
    with pytest.raises(UsageError, match=r"2 x H.*utilization=0\.61"):
        on_gpu(LLAVA_7B, [busy, card(80)], share=0.9, split=2)
    with pytest.raises(UsageError, match=r"what helps: a GPU that nothing else uses"):
        on_gpu(LLAVA_7B, [Gpu("H", 80 * GIB, 17 * GIB + 1)], share=0.9, split=1)


@pytest.mark.parametrize(
    ("folder", "names", "given_back"),
    [
        ("", ("memory.max", "memory.current"), "inactive_file"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ],
)
def test_a_container_has_what_is_left_of_its_limit(
    tmp_path: Path, folder: str, names: tuple[str, str], given_back: str
) -> None:
    """Of 5 MiB 4 are used, one of them by files that were read."""
    group = tmp_path / folder
    group.mkdir(exist_ok=True)
    for name, mib in zip(names, (5, 4), strict=True):
        (group / name).write_text(f"{mib * 2**20}\n")
    (group / "memory.stat").write_text(f"anon 7\n{given_back} {2**20}\n")
    assert host_memory(tmp_path) == 2 * 2**20


@pytest.mark.parametrize("limit", [None, "max"])
def test_without_a_limit_a_machines_memory_counts(tmp_path: Path, limit: str | None) -> None:
    if limit:
        for name, content in {"memory.max": limit, "memory.current": "1", "memory.stat": ""}.items():
            (tmp_path / name).write_text(content)
    assert host_memory(tmp_path) > 2**26


def test_a_machine_without_a_gpu_is_told_what_the_cpu_needs() -> None:
    assert "no GPU is used here" in on_cpu(LLAVA_7B, 32 * GIB)
    with pytest.raises(UsageError, match=r"17\.00 GiB.*8\.0 GiB are free"):
        on_cpu(LLAVA_7B, 8 * GIB)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, and no other."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "nvidia-smi"


def program(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_no_driver_is_no_gpu(nvidia_smi: Path) -> None:
    assert gpus() == []


def test_the_drivers_list_is_read(nvidia_smi: Path) -> None:
    program(nvidia_smi, "echo 'NVIDIA H100 80GB HBM3, 81559, 81000'")
    assert gpus() == [Gpu("NVIDIA H100 80GB HBM3", 81559 * 2**20, 81000 * 2**20)]


def test_a_gpu_without_memory_of_its_own_has_the_machines(nvidia_smi: Path) -> None:
    program(nvidia_smi, "echo 'NVIDIA GB10, [N/A], [N/A]'")
    [found] = gpus()
    assert (found.name, found.total) == ("NVIDIA GB10", psutil.virtual_memory().total)
    assert 0 < found.free <= found.total


@pytest.mark.parametrize("said", ["H, 81559, [Insufficient Permissions]", "H, [N/A], 81000", "[GPU is lost]"])
def test_a_driver_that_tells_no_memory_is_told(nvidia_smi: Path, said: str) -> None:
    program(nvidia_smi, f"echo '{said}'")
    with pytest.raises(MmragError, match="does not tell a GPU's memory"):
        gpus()


def test_a_driver_that_fails_is_told(nvidia_smi: Path) -> None:
    program(nvidia_smi, "exit 9")
    with pytest.raises(MmragError, match="is the driver well"):
        gpus()
