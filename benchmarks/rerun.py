"""Re-running an unchanged corpus against listing and hashing its files. Start-up apart.

    python benchmarks/rerun.py [--work DIR] [--pictures DIR] [--pairs 9]

The job's part is `make_plan`: it lists the sources, hashes every file and compares with the ledger; a run
that finds nothing changed does nothing else. The bare loop lists the folder and hashes the same files.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
from pathlib import Path

from data.pictures import build
from measure import ratio, seconds

from pipelines.core.index import Index, IndexConfig
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import ingest
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import fingerprint_of, make_plan
from pipelines.ingest.sources import list_items


def list_and_hash(folder: Path) -> int:
    count = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(directory, name), "rb") as file:  # noqa: PTH118, PTH123
                hashlib.file_digest(file, "sha256").hexdigest()
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--pairs", type=int, default=9)
    arguments = parser.parse_args()
    folder = arguments.pictures or build(arguments.work)
    config, index_config = IngestConfig(), IndexConfig()
    with tempfile.TemporaryDirectory() as directory:
        index_dir = Path(directory) / "index"
        ingest([str(folder)], index_dir, index_config, config)
        with Index(index_dir, index_config) as index:
            fingerprint = fingerprint_of(index, config)

        def rerun() -> None:
            ledger = Ledger.load(index_dir / "ledger.parquet")
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
