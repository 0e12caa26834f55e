"""Export and import of an index against ingesting the same corpus again, in one run.

    python benchmarks/archive.py [--work DIR] [--pictures DIR] [--pairs 3] [--index DIR]

Without --pictures, the GIMP manual's and the emoji are fetched. With --index, that index is exported and
imported, and nothing is ingested. Both sides load the models, and only the ingest starts Ray: take a corpus
whose ingest lasts minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from measure import ratio, seconds

from pipelines.core.index import Index, IndexConfig
from pipelines.core.stores.embedded import stop
from pipelines.ingest.backup import export_index, import_index


def move(source: Path, scratch: Path, stores: IndexConfig) -> tuple[float, float]:
    """Seconds of an export and of an import into an index of its own."""
    out, target = scratch / "export", scratch / "imported"
    shutil.rmtree(target, ignore_errors=True)
    with Index(source, stores, writable=True) as index:
        exported = seconds(lambda: export_index(index, str(out)))
    with Index(target, stores, writable=True) as index:
        imported = seconds(lambda: import_index(index, str(out)))
        count = index.visual().count()
    for server in (target / "vectors").iterdir():
        stop(server)
    print(f"{count} pictures, {_mb(out):.0f} MB: {exported:.2f} s out, {imported:.2f} s in")
    return exported, imported


def _mb(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def against_ingest(pictures: Path, scratch: Path, stores: IndexConfig, pairs: int) -> None:
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.job import ingest

    def ingested(directory: Path) -> float:
        return seconds(lambda: ingest([str(pictures)], directory, stores, IngestConfig()))

    ingested(scratch / "source")
    again, exports, imports = [], [], []
    for pair in range(pairs):
        again.append(ingested(scratch / f"again-{pair}"))
        exported, imported = move(scratch / "source", scratch, stores)
        exports.append(exported)
        imports.append(imported)
    print(f"ingest / import: {ratio(again, imports)}")
    both = [out + back for out, back in zip(exports, imports, strict=True)]
    print(f"ingest / export and import: {ratio(again, both)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--index", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.index:
            for _ in range(arguments.pairs):
                move(arguments.index, Path(scratch), IndexConfig())
            return
        from data.pictures import build

        pictures = arguments.pictures or build(arguments.work)
        against_ingest(pictures, Path(scratch), IndexConfig(), arguments.pairs)


if __name__ == "__main__":
    main()
