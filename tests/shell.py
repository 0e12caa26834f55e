"""Runs `mmrag …` in this process, as its entry point does, so that models are imported once."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest.mock import patch

from pipelines import cli


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


def mmrag(*arguments: object) -> Answer:
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        patch.object(sys, "argv", ["mmrag", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as exc:
            status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    return Answer(status, out.getvalue(), err.getvalue())
