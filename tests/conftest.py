"""What all tests share. `tests/fakes.py` can be imported from each because this file lies beside it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def clip_settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`--set` values of a tiny random CLIP: quick, and needs no hub."""
    from fakes import tiny_clip

    model: Path = tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")
    return ["encoder.kind=clip", f"encoder.model={model}", "encoder.scales=[64, 96]", "encoder.dtype=float32"]


def pytest_configure() -> None:
    """A shell without job control starts what runs in the background with Ctrl-C ignored, and every child
    would inherit that: the tests that send it need the default."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
