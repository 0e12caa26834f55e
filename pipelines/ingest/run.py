"""One run's own directory: it begins, is acknowledged, and ends. Knows no store and no ledger."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.errors import MmragError
from pipelines.core.files import replace_file


@dataclass(frozen=True, slots=True)
class Run:
    """One run's own directory: what was planned and acknowledged. `root` is the home of its generation."""

    root: Path
    name: str
    fingerprint: str

    @property
    def directory(self) -> Path:
        return self.root / "runs" / self.name

    @property
    def items(self) -> Path:
        return self.directory / "items"

    @property
    def acks(self) -> Path:
        return self.directory / "acks"

    @property
    def described(self) -> Path:
        return self.directory / "run.json"

    def begin(self) -> None:
        self.acks.mkdir(parents=True)
        replace_file(self.described, json.dumps({"fingerprint": self.fingerprint}), durable=True)

    def require_open(self) -> None:
        """Raise MmragError where it has ended: a worker that outlived its job would write over newer rows."""
        if not self.described.exists():
            raise MmragError(f"run {self.name} has ended, and what its workers still had is not written")

    def acknowledged(self) -> int:
        """Rows acknowledged so far; cheap, for a progress bar."""
        return sum(int(path.stem.split("-")[0]) for path in self.acks.glob("*.parquet"))

    def end(self) -> None:
        self.described.unlink(missing_ok=True)  # first: half a run is not to be taken up
        aside = self.directory.with_name(f".{self.name}")  # where no worker that is left writes any more
        self.directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)  # the next run deletes what stays, see `recover`


def unfinished_runs(root: Path) -> Iterator[Run]:
    """Runs that did not come to their end: dead ones, for the holder of the write lock."""
    for described in sorted((root / "runs").glob("*/run.json")):
        try:
            body = json.loads(described.read_text())
        except FileNotFoundError:
            continue  # it ended meanwhile
        yield Run(root, described.parent.name, body["fingerprint"])
