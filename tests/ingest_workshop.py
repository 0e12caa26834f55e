"""A small corpus with all that an ingest meets, and its index: what tests of the job share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import psutil
from fakes import photograph, png

from benchmarks.processes import command
from benchmarks.stored import Rows, differences, stored
from pipelines.core.index import Index
from pipelines.core.stores import embedded
from pipelines.ingest.dry_run import DryRun, dry_run
from pipelines.ingest.job import ingest
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.status import index_status
from pipelines.ingest.summary import Summary
from pipelines.settings import Settings, load_settings

# Of the packaged model: a process that imports transformers, too, takes twice as long to start.
TWO_SCALES = ["encoder.scales=[64, 96]", "encoder.dtype=float32"]
LONG_TEXT = "\n\n".join(
    f"Paragraph {n}: " + "the hole spacing of the cooler is 48 mm. " * 15 for n in range(4)
)


def write_corpus(folder: Path) -> Path:
    """Eight documents: five good pictures, one of them twice, a bad one, and one in conflict."""
    folder.mkdir(parents=True)
    for n in range(5):
        (folder / f"p{n}.png").write_bytes(png(photograph(n, 64)))
    (folder / "p4-again.png").write_bytes((folder / "p4.png").read_bytes())
    (folder / "bad.png").write_bytes(b"PK\3\4 a zip")
    (folder / "p0.txt").write_text(LONG_TEXT)
    (folder / "p1.txt").write_text("红色的散热器")
    (folder / "p0.json").write_text(json.dumps({"year": 2020}))
    (folder / "x-conflict.png").write_bytes(png(photograph(9, 64)))
    (folder / "x-conflict.json").write_text(json.dumps({"year": "new"}))
    return folder


@dataclass
class Workshop:
    """A corpus, its index, and the settings of both."""

    corpus: Path
    directory: Path
    settings: Settings
    assignments: list[str]

    def ingest(self, **options: Any) -> Summary:
        return ingest(
            [str(self.corpus)], self.directory, self.settings.index, self.settings.ingest, **options
        )

    def dry_run(self, **options: bool) -> DryRun:
        return dry_run(
            [str(self.corpus)], self.directory, self.settings.index, self.settings.ingest, **options
        )

    def start(self, *options: str, environment: Mapping[str, str] = os.environ) -> subprocess.Popen[str]:
        """The command, in small batches, so that the writes come one after another."""
        sizes = ["ingest.encoder_batch=1", "ingest.load_batch=1", "ingest.rows_per_write=1"]
        settings = [word for value in (*self.assignments, *sizes) for word in ("--set", value)]
        main = [sys.executable, "-c", "from pipelines.cli import main; main()"]
        words = [*main, "ingest", str(self.corpus), "--index", str(self.directory), *options, *settings]
        return subprocess.Popen(
            words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment
        )

    def wait_for(self, pattern: str, process: subprocess.Popen[str]) -> None:
        """Until the index directory holds a file of that pattern."""
        deadline = time.monotonic() + 240
        while not list(self.directory.glob(pattern)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "nothing was written"
            time.sleep(0.02)

    def open(self) -> Index:
        return Index(self.directory, self.settings.index)

    def stored(self) -> dict[str, Rows]:
        with self.open() as index:
            return stored(index)

    def contents(self) -> dict[str, Any]:
        """Everything that the stores hold but vectors, in a form that two indexes can be compared by."""
        with self.open() as index:
            manifest = index.manifest()
            vectors = [
                np.eye(1, space["dim"], dtype=np.float32)[0]
                for space in (manifest.space, manifest.text_space)
            ]
            pictures = [found.part for found in index.visual().search(vectors[0], 100)]
            chunks = [found.part for found in index.text().search(vectors[1], 100)]
            return {
                "pictures": {part.id: part.content for part in pictures},
                "chunks": {part.id: part.text for part in chunks},
                "lexical": sorted(p.id for p in index.lexical().fetch([c.key for c in chunks]).values()),
                "status": {name: index_status(index)[name] for name in ("stores", "expected")},
            }

    def ledger(self) -> dict[str, dict[str, Any]]:
        tables = Ledger.load(self.directory).tables()
        return {row["document_id"]: row for table in tables for row in table.to_pylist()}

    def stop(self) -> None:
        for server in (self.directory / "vectors").iterdir():
            embedded.stop(server)


def workshop(root: Path, *more: str) -> Workshop:
    assignments = [*TWO_SCALES, *more]
    return Workshop(write_corpus(root / "corpus"), root / "kb", load_settings(None, assignments), assignments)


First: TypeAlias = tuple[Workshop, Summary, dict[str, Any]]
"""An index, the run that made it, and its contents."""


def assert_same_stores(made: Workshop, first: First) -> None:
    assert made.contents() == first[2]
    for name, found in differences(first[0].stored(), made.stored()).items():
        assert (name, found.lost, found.extra) == (name, 0, 0)
        assert found.apart <= 1e-5  # batches of other sizes are summed in another order


def without_servers(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Without the vector servers, which outlive their starter until they are idle."""
    return [process for process in processes if "pipelines.core.stores.embedded" not in command(process)]
