"""Export and import of an index against ingesting the same corpus again, in one run.

    python benchmarks/archive.py [--count 800] [--pictures DIR] [--pairs 3] [--index DIR]

Without --pictures, nameplates with a caption each are drawn. With --index, that index is exported and
imported, and nothing is ingested. Every side starts cold: the ingest its Ray, export and import their vector
servers, which take as long for any corpus: take one whose ingest lasts minutes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measure import ratio, seconds
from pipelines.core.index import Index, IndexConfig
from pipelines.core.stores.embedded import stop
from pipelines.ingest.backup import export_index, import_index


def move(source: Path, scratch: Path, stores: IndexConfig) -> tuple[float, float]:
    """Seconds of an export and of an import into an index of its own."""
    out, target = scratch / "export", scratch / "imported"
    shutil.rmtree(target, ignore_errors=True)
    stop_servers(source)
    with Index(source, stores, writable=True) as index:
        exported = seconds(lambda: export_index(index, str(out), replace=True))
    with Index(target, stores, writable=True) as index:
        imported = seconds(lambda: import_index(index, str(out)))
        count = index.visual().count()
    stop_servers(source)
    stop_servers(target)
    print(f"{count} pictures, {_mb(out):.0f} MB: {exported:.2f} s out, {imported:.2f} s in", flush=True)
    return exported, imported


def stop_servers(index: Path) -> None:
    for server in (index / "vectors").iterdir():
        stop(server)


def _mb(directory: Path) -> float:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def against_ingest(source: Path, scratch: Path, stores: IndexConfig, pairs: int) -> None:
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.job import ingest

    again, exports, imports = [], [], []
    for pair in range(pairs):
        index = scratch / f"index-{pair}"
        again.append(seconds(lambda: ingest([str(source)], index, stores, IngestConfig())))  # noqa: B023
        print(f"ingested in {again[-1]:.1f} s", flush=True)
        exported, imported = move(index, scratch, stores)
        exports.append(exported)
        imports.append(imported)
    print(f"ingest / export: {ratio(again, exports)}")
    print(f"ingest / import: {ratio(again, imports)}")
    both = [out + back for out, back in zip(exports, imports, strict=True)]
    print(f"ingest / export and import: {ratio(again, both)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=800)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--index", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.index:
            for _ in range(arguments.pairs):
                move(arguments.index, Path(scratch), IndexConfig())
            return
        source = arguments.pictures
        if source is None:
            from benchmarks.serve import corpus

            source, _ = corpus(Path(scratch) / "corpus", arguments.count)
        against_ingest(source, Path(scratch), IndexConfig(), arguments.pairs)


if __name__ == "__main__":
    main()
