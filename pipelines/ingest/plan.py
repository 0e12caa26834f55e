"""What a run has to do: the items that are new or changed, as Parquet, and the documents that are gone.

The corpus streams through, and is compared with the ledger a bucket at a time: what is in memory grows with
what changed, not with what is known. Knows no Ray and no store.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.core.errors import MmragError
from pipelines.core.files import replaced
from pipelines.core.index import Index
from pipelines.core.manifest import home_of, standing
from pipelines.core.space import digest
from pipelines.ingest import captions, chunk, ocr, sources
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.hashing import document_digest, document_stamp
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.listed import ITEMS, Listed, in_order, spread, write_stream
from pipelines.ingest.namesakes import Namesakes
from pipelines.ingest.sources import Item, Listing, Rejected, SourceConfig, files, inside

log = logging.getLogger(__name__)

_ROWS_PER_FILE = 1000
_COMPARED = ["document_key", "document_id", "scope", "inputs", "stamp", "digest", "fingerprint", "rejected"]
FEW_DOCUMENTS = 100  # these may all go at once: they are soon ingested again


@dataclass(frozen=True, slots=True)
class Plan:
    """A listed corpus against the ledger.

    `gone` are the keys of known documents that their source no longer holds, by the source's address.
    `refused` is what listing refused. `seen` are unchanged documents of which the ledger has another scope or
    stamp than (scope, stamp): another source holds them now, or their files were only touched. `unclear` are
    how many were not listed, by source, but are not gone either: each may be what a row holds that cannot be
    read.
    """

    new: int
    changed: int
    unchanged: int
    known_rejected: int
    gone: Mapping[str, tuple[str, ...]]
    refused: tuple[Rejected, ...]
    seen: Mapping[str, tuple[str, str]]
    unclear: Mapping[str, int] = field(default_factory=dict)

    @property
    def to_do(self) -> int:
        return self.new + self.changed

    @property
    def gone_keys(self) -> tuple[str, ...]:
        return tuple(key for keys in self.gone.values() for key in keys)

    @classmethod
    def of(cls, plans: Sequence[Plan], refused: Sequence[Rejected]) -> Plan:
        """All of these together, and what else was refused."""
        gone = defaultdict[str, list[str]](list)
        for plan in plans:
            for scope, keys in plan.gone.items():
                gone[scope] += keys
        return cls(
            new=sum(plan.new for plan in plans),
            changed=sum(plan.changed for plan in plans),
            unchanged=sum(plan.unchanged for plan in plans),
            known_rejected=sum(plan.known_rejected for plan in plans),
            gone={scope: tuple(keys) for scope, keys in gone.items()},
            refused=(*refused, *(bad for plan in plans for bad in plan.refused)),
            seen={key: found for plan in plans for key, found in plan.seen.items()},
            unclear=sum((Counter(plan.unclear) for plan in plans), Counter[str]()),
        )


Each = Callable[[Callable[[int], Plan], Iterable[int]], Iterable[Plan]]
"""Calls a picklable function with each number, wherever that may be: `map` is one."""


def make_plan(
    listing: Listing,
    ledger: Ledger,
    fingerprint: str,
    out: Path | None = None,
    *,
    retry_rejected: bool = False,
    whole: bool = False,
    config: SourceConfig | None = None,
    each: Each = map,
    live: Ledger | None = None,
) -> Plan:
    """Compare, and write the items that need work under `out`, a Parquet file for each thousand of them.

    They stand there in the order of the listing, so that pictures of one Parquet row group are read together.
    Of items of one document the first one stands. With `retry_rejected` a document of which a part was
    refused needs work too. With `whole` the listing is all that there shall be: whatever it does not have is
    gone, of whichever source it was. `config` is what it was listed by: a document that was read from a file
    which that allows no more needs work, too, and no refusal hides it. A listing of many items
    is compared by `each`, beside `out`. Where the ledger is of a rebuild, what is gone may be told of that of
    the `live` index instead.
    """
    refused: list[Rejected] = []
    config = config or SourceConfig()

    def items() -> Iterator[Item]:
        for found in listing:
            if isinstance(found, Rejected):
                refused.append(found)
            else:
                yield found

    with tempfile.TemporaryDirectory(prefix=".listed-", dir=out.parent if out else None) as folder:
        held = ledger if live is None else live
        listed = spread(items(), max(ledger.buckets, held.buckets), Path(folder))
        missing = _Missing.of(listing.scopes, refused, config, whole)
        needed = Path(folder, "needed")
        needed.mkdir()
        compare = _Compare(listed, ledger, held, fingerprint, needed, missing, retry_rejected, config)
        run = each if listed.held is None else map
        plan = Plan.of(list(run(compare, range(listed.buckets))), refused)
        _warn_of_unclear(plan, missing)
        if out and plan.to_do:
            _write(in_order(sorted(needed.glob("*.arrows"))), out)
        return plan


def _warn_of_unclear(plan: Plan, missing: _Missing) -> None:
    for scope, number in plan.unclear.items():
        log.warning(
            "%s: %s of its documents are not listed any more, but are kept: what cannot be read at %s may be "
            "any of them; put that right, or take it out, and they are gone",
            scope,
            f"{number:,}",
            missing.unclear[scope],
        )


def known_sources(directory: Path) -> set[str]:
    """The sources that the documents of this index were listed in; none where there is no index."""
    generation, _ = standing(directory)
    return Ledger.load(home_of(directory, generation)).scopes()


def to_prune(plan: Plan, ledger: Ledger, max_fraction: float) -> tuple[str, ...]:
    """The keys of all documents that are gone. Raises MmragError where that looks like an accident: of one
    source, or of many small ones together, as when what holds them all is not mounted."""
    if len(plan.gone_keys) <= FEW_DOCUMENTS:
        return plan.gone_keys
    known = ledger.documents_by_scope()
    each = [(f"{scope} holds", "its", len(keys), known[scope]) for scope, keys in plan.gone.items()]
    of_these = sum(known[scope] for scope in plan.gone)
    together = f"{len(each):,} sources hold", "their", len(plan.gone_keys), of_these
    for who, whose, number, of in [*each, together]:
        if number > FEW_DOCUMENTS and number > max_fraction * of:
            raise MmragError(
                f"{who} {number:,} of {whose} {of:,} documents no more, and nothing was done: "
                "is all mounted and whole? --set ingest.max_pruned_fraction=1 deletes them"
            )
    return plan.gone_keys


def fingerprint_of(index: Index, config: IngestConfig) -> str:
    """Of everything that decides what a document becomes: both spaces, readers, OCR, captions, chunker."""
    return digest(
        {
            "space": index.encoder().space.fingerprint,
            "text_space": index.embedder().space.fingerprint,
            "sources": sources.RULES,
            "chunks": chunk.RULES,
            "chunking": config.chunking.model_dump(mode="json"),
            **ocr.fingerprint(config.ocr),
            **captions.fingerprint(config.captions),
        }
    )


@dataclass(frozen=True, slots=True)
class _Missing:
    """Which documents that were not listed are gone: those of sources with `roots` (of all, if None) that
    listing did not refuse, be it with their folder or as an `unclear` row of their manifest. Where it refused
    them because they may not be read any more, they are gone too."""

    roots: Mapping[str, str] | None  # by source, the folder that its files are in
    refused_ids: frozenset[str]
    refused_places: frozenset[str]  # a folder among them hides what is in it, a side-car its picture
    unclear: Mapping[str, str]  # by source, the first such row
    config: SourceConfig

    @classmethod
    def of(
        cls, scopes: Mapping[str, bool], refused: Sequence[Rejected], config: SourceConfig, whole: bool
    ) -> Self:
        if whole:
            return cls(None, frozenset(), frozenset(), {}, config)
        # What was refused under no id but its place could be any document of its manifest.
        nameless = {bad.scope: bad.source for bad in reversed(refused) if _is_nameless(bad)}
        return cls(
            roots={scope: scope if is_folder else files.parent(scope) for scope, is_folder in scopes.items()},
            refused_ids=frozenset(bad.document_id for bad in refused),
            refused_places=frozenset(bad.source for bad in refused),
            unclear={scope: where for scope, where in nameless.items() if not scopes.get(scope, True)},
            config=config,
        )

    def gone(self, unlisted: pa.Table) -> tuple[dict[str, tuple[str, ...]], Counter[str]]:
        """Of these rows of the ledger, the keys of those that are gone, and how many may be an unclear row;
        by scope."""
        if self.roots is not None:
            unlisted = unlisted.filter(pc.is_in(unlisted["scope"], pa.array(list(self.roots), pa.string())))
        gone, unclear = defaultdict[str, list[str]](list), Counter[str]()
        for row in unlisted.select(["document_key", "document_id", "inputs", "scope"]).to_pylist():
            scope = row["scope"] or ""
            is_refused = self._is_refused(row)
            if not (is_refused or scope in self.unclear) or not self._may_be_read(row):
                gone[scope].append(row["document_key"])
            elif not is_refused:
                unclear[scope] += 1
        return {scope: tuple(keys) for scope, keys in gone.items()}, unclear

    def _is_refused(self, row: Mapping[str, Any]) -> bool:
        return row["document_id"] in self.refused_ids or any(
            place in self.refused_places for file in row["inputs"] or () for place in _places(file)
        )

    def _may_be_read(self, row: Mapping[str, Any]) -> bool:
        return self.roots is None or _allowed(row["inputs"] or (), self.roots[row["scope"]], self.config)


def _is_nameless(bad: Rejected) -> bool:
    return f"/{bad.document_id}" in bad.source


def _allowed(addresses: Iterable[str], root: str, config: SourceConfig) -> bool:
    return all(files.is_allowed(inside.file_of(address), root, config) for address in addresses)


def _places(address: str) -> Iterable[str]:
    """Every folder that the address is in, from the outermost, and the address."""
    return accumulate(address.split("/"), "{}/{}".format)


@dataclass(frozen=True, slots=True)
class _Compare:
    """The listing against the ledger, called with a bucket's number; may be repeated. What needs work of the
    bucket is a file in `needed` then."""

    listed: Listed
    ledger: Ledger
    held: Ledger  # of which documents may be gone
    fingerprint: str
    needed: Path
    missing: _Missing
    retry_rejected: bool
    config: SourceConfig

    def __call__(self, bucket: int) -> Plan:
        entries, (gone, unclear) = self._known(bucket)
        met: set[str] = set()
        refused: list[Rejected] = []
        seen: dict[str, tuple[str, str]] = {}
        namesakes = Namesakes(self.config)
        counts = {"new": 0, "changed": 0, "unchanged": 0, "known_rejected": 0}

        def is_needed(key: str, item: Item) -> bool:
            if key in met:
                reason = f"the id {item.document_id!r} occurs before in this run; the first one stands"
                refused.append(Rejected(item.document_id, item.address, "list", reason, item.scope))
                return False
            entry = entries.get(key)
            if entry and (other := namesakes.of(item, entry["scope"])):
                reason = _taken(item.document_id, other)
                refused.append(Rejected(item.document_id, item.address, "list", reason, item.scope))
                return False
            met.add(key)
            if entry is None:
                counts["new"] += 1
                return True
            stamp = _unchanged_stamp(item, entry, self.fingerprint, self.config)
            # A row without files of its own names the one that it stands in as its source.
            is_alone = item.form == "row" and not item.inputs
            has_moved = is_alone and entry["scope"] not in (item.scope, None)
            if stamp is None or has_moved or (self.retry_rejected and entry["rejected"]):
                counts["changed"] += 1
                return True
            counts["unchanged"] += 1
            counts["known_rejected"] += entry["rejected"]
            if (item.scope, stamp) != (entry["scope"], entry["stamp"]):
                seen[key] = item.scope, stamp
            return False

        def needed() -> Iterator[pa.Table]:
            for items in self.listed.batches(bucket):
                rows = items.drop_columns(["document_key", "place"]).to_pylist()
                keyed = zip(items["document_key"].to_pylist(), rows, strict=True)
                yield items.filter(pa.array([is_needed(key, Item(**row)) for key, row in keyed], pa.bool_()))

        with replaced(self.needed / f"{bucket:05d}.arrows") as beside:
            write_stream(needed(), beside)
        return Plan(**counts, gone=gone, refused=tuple(refused), seen=seen, unclear=unclear)

    def _known(
        self, bucket: int
    ) -> tuple[dict[str, dict[str, Any]], tuple[dict[str, tuple[str, ...]], Counter[str]]]:
        """What is known of a bucket's listed documents, by key, and of the others what `gone` tells."""
        keys = self.listed.keys(bucket)
        known = self.ledger.bucket(bucket, self.listed.buckets, _COMPARED)
        is_listed = pc.is_in(known["document_key"], keys)
        entries = {row["document_key"]: row for row in known.filter(is_listed).to_pylist()}
        if self.held != self.ledger:
            known = self.held.bucket(bucket, self.listed.buckets, _COMPARED)
            is_listed = pc.is_in(known["document_key"], keys)
        return entries, self.missing.gone(known.filter(pc.invert(is_listed)))


def _taken(document_id: str, other: str) -> str:
    return (
        f"the id {document_id!r} occurs in the index, of {other}, which is still there: rename one of the "
        "folders, or name the one above both as SOURCE; to replace that document, move its file away"
    )


def _write(rows: Iterator[dict[str, Any]], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for n, some in enumerate(iter(lambda: list(islice(rows, _ROWS_PER_FILE)), [])):
        with replaced(out / f"{n:06d}.parquet", durable=True) as beside:  # for the recovery of this run
            pq.write_table(pa.Table.from_pylist(some, schema=ITEMS), beside)


def _unchanged_stamp(
    item: Item, entry: Mapping[str, Any], fingerprint: str, config: SourceConfig
) -> str | None:
    """The stamp by which an unchanged document is known from now on; None of one that changed."""
    if entry["fingerprint"] != fingerprint:
        return None
    inputs = entry["inputs"]
    if not set(item.inputs) <= set(inputs):
        return None
    # What parsing found: the pictures of a page, and those of a row that listing does not name any more.
    if not _allowed(set(inputs) - set(item.inputs), item.root, config):
        return None
    listed = dict(zip(item.inputs, item.stamps, strict=True)) if item.stamps else {}
    stamp = document_stamp(item, inputs, listed)
    if stamp and stamp == entry["stamp"]:
        return stamp
    # The stamp was taken before the bytes were read: what is written meanwhile has another.
    digest = document_digest(item, inputs, max_bytes=config.largest_bytes)
    return stamp or str(entry["stamp"] or "") if digest == entry["digest"] else None
