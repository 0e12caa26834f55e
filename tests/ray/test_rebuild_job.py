"""The real job with `--rebuild` over a small folder: killed, taken up, swapped while a reader searches."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import photograph, png
from ingest_workshop import Workshop, workshop

from pipelines.core import live
from pipelines.core.errors import MmragError, SpaceMismatch
from pipelines.core.live import LiveIndex
from pipelines.core.manifest import Manifest
from pipelines.core.retriever import Query
from pipelines.core.types import SearchResult
from pipelines.settings import load_settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ONE = Query("the hole spacing", image=png(photograph(0, 64)), k=20)
SHORT_CHUNKS = ("ingest.chunking.max_chars=200", "ingest.chunking.merge_chars=100")


class Reader:
    """Searches all the time, and keeps what it was told."""

    def __init__(self, made: Workshop) -> None:
        self.index = LiveIndex(made.open(), made.settings.search)
        self.results: list[SearchResult] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._searching = self._pool.submit(self._search)

    def _search(self) -> None:
        while not self._stop.is_set():
            self.results.append(self.index.search(ONE))
            time.sleep(0.02)

    def next(self) -> SearchResult:
        """The result of a search that begins now."""
        searched = len(self.results)
        while len(self.results) < searched + 2 and not self._searching.done():
            time.sleep(0.01)
        return self.results[-1]

    def end(self) -> None:
        """Raises what a search raised."""
        self._stop.set()
        try:
            self._searching.result()
        finally:
            self._pool.shutdown()
            self.index.close()


def chunks(result: SearchResult) -> set[str]:
    """The passages, each of which is of one generation only."""
    return {hit.text for hit in result.hits if "hole spacing" in hit.text}


def with_settings(made: Workshop, *more: str) -> Workshop:
    assignments = [*made.assignments, *more]
    return replace(made, settings=load_settings(None, assignments), assignments=assignments)


def killed_in_the_middle(made: Workshop, acknowledgements: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = made.start("--rebuild", environment=environment)
    try:
        made.wait_for(acknowledgements, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.0)
    shop = workshop(tmp_path)
    try:
        yield shop
    finally:
        shop.stop()


def test_an_index_is_rebuilt_under_its_readers(made: Workshop, local_ray: None) -> None:
    made.ingest()
    old = made.contents()
    finer = with_settings(made, *SHORT_CHUNKS)
    killed_in_the_middle(finer, "generations/1/runs/*/acks/*.parquet")
    assert made.contents() == old
    assert finer.dry_run(rebuild=True).unfinished_runs
    reader = Reader(made)
    try:
        # Other chunks of the same spaces: what was killed is taken up, and nothing is encoded again.
        before = reader.next()
        summary = finer.ingest(rebuild=True)
        after = reader.next()
        assert summary.encoded_images == 0
        assert summary.index["status"] == {"complete": 6, "rejected": 2}
        new = finer.contents()
        assert new["pictures"] == old["pictures"]
        assert len(new["chunks"]) > len(old["chunks"])
        assert new["status"]["stores"] == new["status"]["expected"]
        assert chunks(before)
        assert chunks(after)
        assert not chunks(before) & chunks(after)
        for result in reader.results:
            assert result.degraded == ()
            texts = chunks(result)
            assert texts <= set(old["chunks"].values()) or texts <= set(new["chunks"].values())

        # Another space: all is encoded anew, and a reader of the old models says so.
        smaller = with_settings(finer, "encoder.scales=[64]")
        assert smaller.ingest(rebuild=True).encoded_images == 5
        assert Manifest.load(made.directory).generation == 2
        assert smaller.contents()["pictures"] == old["pictures"]
        outdated = reader.next()
        assert chunks(outdated) == chunks(after)
        assert ["rebuilt with other models" in told for told in outdated.degraded] == [True]
    finally:
        reader.end()

    # The next run drops what was kept for it.
    assert smaller.ingest().unchanged == 8
    held = {path.name for path in (made.directory / "vectors").iterdir()}
    assert held == {"visual_knowledge_g2", "text_knowledge_g2"}
    assert not (made.directory / "lexical_g1").exists()
    with made.open() as late, pytest.raises(SpaceMismatch):
        late.retriever(made.settings.search).search(ONE)


def test_pictures_of_a_disk_that_is_away_stay(made: Workshop, local_ray: None, tmp_path: Path) -> None:
    rows = tmp_path / "rows" / "m.jsonl"
    disk = rows.parent / "disk"
    disk.mkdir(parents=True)
    (disk / "a.png").write_bytes(png(photograph(0, 64)))
    (rows.parent / "b.png").write_bytes(png(photograph(1, 64)))
    (rows.parent / "bad.png").write_bytes(b"no picture")
    rows.write_text('{"id": "d", "images": ["bad.png", "disk/a.png", "b.png"], "text": "Two."}\n')
    shop = replace(made, corpus=rows)
    shop.ingest()
    before = shop.contents()
    disk.rename(tmp_path / "away")
    with pytest.raises(MmragError, match="1 documents would lose pictures"):
        shop.ingest(rebuild=True)
    now = shop.contents()
    assert (now["pictures"], now["chunks"]) == (before["pictures"], before["chunks"])
    assert Manifest.load(shop.directory).generation == 0
    (tmp_path / "away").rename(disk)
    shop.ingest(rebuild=True)
    assert shop.contents()["pictures"] == before["pictures"]
    assert Manifest.load(shop.directory).generation == 1
