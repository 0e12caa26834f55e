"""What an ingest would do, without doing it. Knows no Ray and opens no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.core.index import Index, IndexConfig
from pipelines.core.manifest import Manifest, home_of
from pipelines.core.ocr import require as require_ocr
from pipelines.ingest import metadata
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import fingerprint_of, known_sources, make_plan, to_prune
from pipelines.ingest.rebuild import is_begun, require_all_sources, require_few_unlisted
from pipelines.ingest.run import unfinished_runs
from pipelines.ingest.sources import Listing, Rejected, list_items


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run would do, in documents. `refused` is only what listing refuses already.

    Of a rebuild `new`, `changed` and `unchanged` are of what an earlier one has made so far, and `gone` and
    `pruned` of the index that is read: what the swap would delete. `unclear`: as a `Summary` counts them.
    """

    new: int
    changed: int
    unchanged: int
    known_rejected: int
    gone: int
    pruned: int
    refused: tuple[Rejected, ...]
    unfinished_runs: tuple[str, ...]
    unclear: int

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
    rebuild: bool = False,
) -> DryRun:
    """What `ingest` with the same arguments would do. Writes nothing, and raises what it would at once."""
    known = known_sources(directory) if prune and not rebuild else None
    types = metadata.known_types(directory)
    listing = list_items(source_names, config.sources, whole=rebuild, known=known, types=types)
    require_ocr(config.ocr)
    with Index(directory, index_config, building=rebuild) as index:
        live = _live(index, listing, config) if rebuild else None
        home = _rebuilt(index) if rebuild else _home(index)
        ledger = Ledger.load(home) if home else Ledger(directory)
        plan = make_plan(
            listing,
            ledger,
            fingerprint_of(index, config),
            retry_rejected=retry_rejected,
            whole=rebuild,
            config=config.sources,
            live=live,
        )
        pruned = plan.gone_keys if rebuild else ()
        if live is not None:
            require_few_unlisted(live, set(pruned), config.max_pruned_fraction)
        elif prune:
            pruned = to_prune(plan, ledger, config.max_pruned_fraction)
        unfinished = tuple(run.name for run in unfinished_runs(home)) if home else ()
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
        sum(plan.unclear.values()),
    )


def _home(index: Index) -> Path:
    """Where the generation that is read, or would be made, has its ledger."""
    if not index.begun:
        return index.directory
    index.check_spaces()
    return index.home


def _live(index: Index, listing: Listing, config: IngestConfig) -> Ledger:
    """That of the generation that would be replaced. Raises what a rebuild would before it begins."""
    known = Ledger.load(home_of(index.directory, Manifest.load(index.directory).generation))
    require_all_sources(known, listing.scopes, config.max_pruned_fraction)
    return known


def _rebuilt(index: Index) -> Path | None:
    """Where the half-made generation that would be taken up has its ledger; None where there is none."""
    return index.home if is_begun(index, Manifest.load(index.directory)) else None
