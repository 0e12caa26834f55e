"""Served answers that are measured, and ratings: into the metrics, and as JSON lines into a file.

A share of the answers is measured in a thread of its own, after its words have left. A rating is not looked
up: any gateway takes it, and its line stands beside the answer's. Both have the request's id and the caller's
tenant; only lines that agree in both belong together, so nobody rates the answer of another tenant.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pipelines.core.answer import Question
from pipelines.core.entailment import Lexical
from pipelines.core.errors import UsageError
from pipelines.core.types import Answer
from pipelines.serve.config import MonitorConfig
from pipelines.serve.faults import to_json
from pipelines.serve.metrics import Metrics
from pipelines.serve.sample import sample

log = logging.getLogger(__name__)

WAITING: Final = 64
"""Answers that wait to be measured, at most; those beyond are counted and forgotten."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Which request, and whose. `tenant` None sees the documents of all."""

    request_id: str
    tenant: str | None


class Monitor:
    """`draw` gives a number from 0 to 1. Raises UsageError where the configured file cannot be written."""

    def __init__(
        self, config: MonitorConfig, metrics: Metrics, draw: Callable[[], float] = random.random
    ) -> None:
        self._config, self._metrics, self._draw = config, metrics, draw
        self._entails = Lexical(config.coverage)
        self._places = threading.BoundedSemaphore(WAITING)
        self._thread = ThreadPoolExecutor(1, "monitor")
        if config.file is not None:
            try:
                _append(config.file, b"")
            except OSError as exc:
                raise UsageError(
                    f"serve.monitor.file {config.file} cannot be written: {exc.strerror}"
                ) from exc

    def answered(self, asker: Asker, question: Question, answer: Answer) -> None:
        """Have an answer measured, if it is drawn. Waits for nothing."""
        if self._draw() >= self._config.sample:
            return
        if not self._places.acquire(blocking=False):
            self._metrics.sampled("skipped")
            return
        measuring = self._thread.submit(self._measure, asker, question, answer)
        measuring.add_done_callback(self._done)

    def rated(self, asker: Asker, rating: Literal["up", "down"]) -> None:
        """Count a rating once it is written. Raises OSError where it cannot be."""
        self._write(asker, "rated_at", {"rating": rating})
        self._metrics.rated(rating)

    def _measure(self, asker: Asker, question: Question, answer: Answer) -> None:
        found = sample(answer, self._entails)
        figures = asdict(found)
        self._write(asker, "answered_at", figures.pop("figures") | figures | self._text(question, answer))
        self._metrics.measured(found)

    def _done(self, measuring: Future[None]) -> None:
        self._places.release()
        failure = measuring.exception()
        self._metrics.sampled("failed" if failure else "measured")
        if failure:
            log.error("an answer could not be measured", exc_info=failure)

    def _text(self, question: Question, answer: Answer) -> dict[str, str | None]:
        if not self._config.keep_text:
            return {}
        return {"question": question.query.text, "answer": answer.answer}

    def _write(self, asker: Asker, when: str, told: Mapping[str, Any]) -> None:
        if self._config.file is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = to_json({**asdict(asker), when: now, **told})
        _append(self._config.file, line.encode("utf-8", "replace") + b"\n")


def _append(file: Path, line: bytes) -> None:
    """One write at the file's end, which lines of other processes on this machine do not cut in two. Opened
    for each, so that it may be moved away meanwhile; for its owner's eyes only."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        written = os.write(descriptor, line)
    finally:
        os.close(descriptor)
    if written < len(line):
        raise OSError(f"{file}: {written} of {len(line)} bytes were written")
