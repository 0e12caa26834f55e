"""Which documents would lose pictures by what looks like an accident, as when a disk is not mounted. Knows no
store.

Nothing of theirs is deleted: they stay unfinished, as those that could not be read, until the next run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from pipelines.ingest import acknowledged
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.plan import FEW_DOCUMENTS
from pipelines.ingest.run import Run
from pipelines.ingest.sources import AWAY, FORBIDDEN, UNAVAILABLE, inside


@dataclass(frozen=True, slots=True)
class Kept:
    """The keys of documents that stay as they are, and what to do about it ("" where there are none)."""

    keys: frozenset[str] = frozenset()
    told: str = ""


_NONE: Final = Kept()
_IS_GOOD_PICTURE: Final = (pc.field("kind") == "image") & pc.field("stage").is_null()


def held(parts: Path, known: Ledger, max_fraction: float) -> frozenset[str]:
    """Of the documents that were read, as rows under `parts`, those of which a picture may return, or is
    AWAY, and which have fewer left of the files that they had: nothing of them is written, as what else
    changed in them may have moved their pictures."""
    rows = pads.dataset(parts, format="parquet")
    stages = [UNAVAILABLE] if max_fraction >= 1 else [UNAVAILABLE, AWAY]
    found = rows.to_table(columns=["document_key"], filter=pc.field("stage").isin(stages))
    before = known.rows_of(set(found["document_key"].to_pylist()), ["document_key", "images", "inputs"])
    had = {row["document_key"]: row for row in before.to_pylist()}
    is_left = _IS_GOOD_PICTURE & pc.field("document_key").isin(pa.array(had, pa.string()))
    left = Counter[str]()
    for row in rows.to_table(columns=["document_key", "address"], filter=is_left).to_pylist():
        key = row["document_key"]
        left[key] += inside.depends_on(row["address"]) in had[key]["inputs"]
    return frozenset(key for key, row in had.items() if left[key] < row["images"])


def kept(run: Run, known: Ledger, max_fraction: float) -> Kept:
    """Of the documents that `run` acknowledged those whose pictures are refused now and were not before:
    of a source all that would keep none, where they are too many (as `plan.to_prune` counts them, among those
    with pictures), and any of which a picture is AWAY and of whose files fewer are left than it had pictures.
    What is FORBIDDEN is lost on purpose, and with a fraction of 1 all is."""
    if max_fraction >= 1:
        return _NONE
    refused = acknowledged.rows_where(run, pc.field("stage").is_valid(), ["document_key", "stage"])
    away, forbidden, waiting = (_keys_of(refused, stage) for stage in (AWAY, FORBIDDEN, UNAVAILABLE))
    keys = set(refused["document_key"].to_pylist()) - waiting
    before = known.rows_of(keys, ["document_key", "scope", "images", "inputs"])
    before = before.filter(pc.greater(before["images"], 0))
    if not len(before):
        return _NONE
    left = _files_left(run, before["document_key"].combine_chunks())
    held: set[str] = set()
    lost = defaultdict[str, list[str]](list)
    for row in before.to_pylist():
        key, files = row["document_key"], left[row["document_key"]]
        had = set(row["inputs"] or ())
        if key in away and sum(file in had for file in files) < row["images"]:
            held.add(key)
        if not files and key not in forbidden:
            lost[row["scope"] or ""].append(key)
    for scope, gone in lost.items():
        if len(gone) > FEW_DOCUMENTS and len(gone) > max_fraction * _with_pictures(known, scope):
            held.update(gone)
    return Kept(frozenset(held), _told(len(held))) if held else _NONE


def _keys_of(refused: pa.Table, stage: str) -> set[str]:
    return set(refused.filter(pc.equal(refused["stage"], stage))["document_key"].to_pylist())


def _files_left(run: Run, document_keys: pa.Array) -> dict[str, list[str]]:
    """By document, for each picture that it has now the file that it depends on."""
    of_these = pc.field("document_key").isin(document_keys)
    columns = ["document_key", "key", "kind", "stage", "source"]
    good = acknowledged.rows_where(run, _IS_GOOD_PICTURE & of_these, columns)
    once = good.group_by(["document_key", "key", "source"]).aggregate([])  # a write may be acknowledged twice
    left = defaultdict[str, list[str]](list)
    for key, source in zip(once["document_key"].to_pylist(), once["source"].to_pylist(), strict=True):
        left[key].append(inside.depends_on(source))
    return left


def _with_pictures(known: Ledger, scope: str) -> int:
    return sum(
        pc.sum(pc.and_(pc.equal(pc.fill_null(t["scope"], ""), scope), pc.greater(t["images"], 0))).as_py()
        or 0
        for t in known.tables(["scope", "images"])
    )


def _told(documents: int) -> str:
    return (
        f"{documents:,} documents would lose pictures that can be found no more, and nothing of them was "
        "deleted: is all that they name mounted and whole? Run the same command again then; "
        "--set ingest.max_pruned_fraction=1 lets the pictures go"
    )
