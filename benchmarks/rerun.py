"""Re-running an unchanged corpus against listing and hashing its files. Start-up apart.

    python benchmarks/rerun.py [--work DIR] [--pictures DIR] [--pairs 9]
    python benchmarks/rerun.py --rows 100000 1000000

The job's part is `make_plan`: it lists the sources, hashes every file and compares with the ledger; a run
that finds nothing changed does nothing else. The bare loop lists the folder and hashes the same files.

With `--rows`, instead: the whole command over a manifest of so many texts, of which every thousandth is
another than in the ledger. That is written without an ingest, so the stores hold what changed alone.
Memory is resident and unshared, the most that was seen four times a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
from data.pictures import build
from measure import ratio, seconds

from pipelines.core.index import Index, IndexConfig
from pipelines.core.types import store_key
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.hashing import document_digest, document_stamp
from pipelines.ingest.job import ingest
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.plan import fingerprint_of, make_plan
from pipelines.ingest.sources import Item, list_items


def list_and_hash(folder: Path) -> int:
    count = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:  # noqa: PTH118, PTH123
                hashlib.file_digest(file, "sha256").hexdigest()
            count += 1
    return count


def write_manifest(path: Path, count: int, new_every: int = 0) -> None:
    with path.open("w") as file:
        for n in range(count):
            edition = "new" if new_every and n % new_every == 0 else "old"
            text = f"Part {n} of the {edition} catalogue: hole spacing {n % 97} mm, weight {n % 89} kg."
            file.write(json.dumps({"id": f"part-{n:08d}", "text": text}) + "\n")


def write_ledger(index_dir: Path, manifest: Path) -> None:
    """As if all of the manifest had been ingested."""
    config = IngestConfig()
    with Index(index_dir, IndexConfig(), writable=True) as index, index.write_lock():
        index.create()
        same = {"fingerprint": fingerprint_of(index, config), "status": "complete", "run": "synthetic"}
        counts = {"images": 0, "chunks": 1, "rejected": 0}
        rows = (
            {
                "document_key": store_key(item.tenant, item.document_id),
                "document_id": item.document_id,
                "tenant": item.tenant,
                "source": item.address,
                "scope": item.scope,
                "inputs": [],
                "stamp": document_stamp(item, ()),
                "digest": document_digest(item, ()),
            }
            | same
            | counts
            for item in list_items([str(manifest)], config.sources)
            if isinstance(item, Item)
        )
        Ledger(index.home).changed(pa.Table.from_pylist(list(rows), schema=SCHEMA))


def rerun_of(count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        manifest, index_dir = Path(directory) / "parts.jsonl", Path(directory) / "index"
        write_manifest(manifest, count)
        write_ledger(index_dir, manifest)
        write_manifest(manifest, count, new_every=1000)
        start = time.perf_counter()
        mmrag = [sys.executable, "-c", "from pipelines.cli import main; main()"]
        command = [*mmrag, "ingest", manifest, "--index", index_dir, "--json"]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peaks: Counter[str] = Counter()
        watcher = threading.Thread(target=watch, args=(child, peaks))
        watcher.start()
        summary = json.loads(child.communicate()[0])
        minutes = (time.perf_counter() - start) / 60
        watcher.join()
        assert (summary["documents"], summary["unchanged"]) == (count // 1000, count - count // 1000)
        memory = ", ".join(f"{what} {peaks[what] / 2**20:,.0f} MiB" for what in ("driver", "task", "all"))
        print(f"{count:,} rows, {count // 1000:,} changed: {minutes:.2f} minutes; {memory}", flush=True)


def watch(child: subprocess.Popen[str], peaks: Counter[str]) -> None:
    """The peaks of the driver, of the largest of Ray's workers that ran a task, and of all processes."""
    driver = psutil.Process(child.pid)
    while child.poll() is None:
        total = 0
        for process in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.Error):
                memory, command = process.memory_info(), process.cmdline()
                own = memory.rss - memory.shared
                total += own
                is_task = bool(command) and command[0].startswith("ray::")
                what = "driver" if process == driver else "task" if is_task else "other"
                peaks[what] = max(peaks[what], own)
        peaks["all"] = max(peaks["all"], total)
        time.sleep(0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--rows", type=int, nargs="+")
    arguments = parser.parse_args()
    if arguments.rows:
        for count in arguments.rows:
            rerun_of(count)
        return
    folder = arguments.pictures or build(arguments.work)
    config, index_config = IngestConfig(), IndexConfig()
    with tempfile.TemporaryDirectory() as directory:
        index_dir = Path(directory) / "index"
        ingest([str(folder)], index_dir, index_config, config)
        with Index(index_dir, index_config) as index:
            fingerprint = fingerprint_of(index, config)

        def rerun() -> None:
            ledger = Ledger.load(index_dir)
            plan = make_plan(
                list_items([str(folder)], config.sources), ledger, fingerprint, Path(directory) / "items"
            )
            assert plan.to_do == 0

        rerun()
        list_and_hash(folder)
        reruns, bare = [], []
        for _ in range(arguments.pairs):
            reruns.append(seconds(rerun))
            bare.append(seconds(lambda: list_and_hash(folder)))
        print(f"{list_and_hash(folder)} files; last pair: {reruns[-1]:.3f} s against {bare[-1]:.3f} s")
        print(f"rerun / list and hash: {ratio(reruns, bare)}")
        whole = seconds(lambda: ingest([str(folder)], index_dir, index_config, config))
        print(f"the whole second run of the job, in one process with its models loaded: {whole:.2f} s")


if __name__ == "__main__":
    main()
