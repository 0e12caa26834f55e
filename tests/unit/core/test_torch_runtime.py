"""What torch models share: pixels on a device, its memory, a compiler."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipelines.core.errors import MissingDependency, OutOfMemory
from pipelines.core.torch_runtime import on_device, own_memory_error, require_compiler


def random_pixels(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def test_pixels_arrive_as_bytes() -> None:
    pixels = random_pixels(2, 8)[:, ::2]  # of a view, too
    copied = on_device(pixels, "cpu")
    assert copied.dtype == torch.uint8
    np.testing.assert_array_equal(copied.numpy(), pixels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a copy that is not waited for needs a GPU")
def test_a_gpu_copies_pixels_by_itself() -> None:
    pixels = random_pixels(64, 448)
    on_device(pixels, "cuda")  # locks the pages that the second copy uses again
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)  # a second of work, behind which the copy waits
    copied = on_device(pixels, "cuda")
    assert not torch.cuda.current_stream().query(), "the copy was waited for"
    assert copied.dtype == torch.uint8
    np.testing.assert_array_equal(copied.cpu().numpy(), pixels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to fill")
def test_a_full_gpu_is_told_by_an_error_of_ours() -> None:
    with pytest.raises(OutOfMemory, match="out of memory"), own_memory_error():
        torch.empty(2**50, dtype=torch.uint8, device="cuda")


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), own_memory_error():
        raise RuntimeError("shapes")


def test_without_a_compiler_compiling_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(MissingDependency, match=r"install g\+\+, or set encoder\.compile to false"):
        require_compiler("encoder.compile")
