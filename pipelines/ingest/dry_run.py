"""What an ingest would do, without doing it. Knows no Ray and opens no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.core.index import Index, IndexConfig
from pipelines.ingest import ocr
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import fingerprint_of, make_plan, to_prune
from pipelines.ingest.sink import unfinished_runs
from pipelines.ingest.sources import Rejected, list_items


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would do, in documents. `refused` is only what listing refuses already."""

    new: int
    changed: int
    unchanged: int
    known_rejected: int
    gone: int
    pruned: int
    refused: tuple[Rejected, ...]
    unfinished_runs: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def dry_run(
    source_names: Sequence[str],
    directory: Path,
    index_config: IndexConfig,
    config: IngestConfig,
    *,
    prune: bool = False,
    retry_rejected: bool = False,
) -> DryRun:
    """What `ingest` with the same arguments would do. Writes nothing, and raises what it would at once."""
    listing = list_items(source_names, config.sources)
    ocr.require(config.ocr)
    with Index(directory, index_config) as index:
        if index.begun:
            index.check_spaces()
        ledger = Ledger.load(index.directory / "ledger.parquet")
        plan = make_plan(listing, ledger, fingerprint_of(index, config), retry_rejected=retry_rejected)
        pruned = to_prune(plan, ledger, config.max_pruned_fraction) if prune else ()
        unfinished = tuple(run.name for run in unfinished_runs(index.directory))
    gone = sum(map(len, plan.gone.values()))
    return DryRun(
        plan.new,
        plan.changed,
        plan.unchanged,
        plan.known_rejected,
        gone,
        len(pruned),
        plan.refused,
        unfinished,
    )
