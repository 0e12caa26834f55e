"""What all tests share. `tests/fakes.py` can be imported from each because this file lies beside it."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # some import pymilvus before ours could say so


def pytest_configure() -> None:
    """A shell without job control starts what runs in the background with Ctrl-C ignored, and every child
    would inherit that: the tests that send it need the default."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
