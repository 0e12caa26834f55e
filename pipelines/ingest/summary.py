"""What a run found and did, as one record. Knows no Ray and no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.core.errors import MmragError
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.near_duplicates import Alike
from pipelines.ingest.plan import Plan
from pipelines.ingest.run import Run
from pipelines.ingest.sink import Finished


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run found and did. Times in seconds; a stage's time adds up over its parallel workers.

    Of all pictures of the index, `same_pictures` are the same file as an earlier one and `near_duplicates`
    look like one; None where that was not looked for. `differing_stores` hold another number of parts than
    the ledger says, as far as the run has opened them. `unclear` documents are neither listed nor gone: each
    may be what a row of its source holds that cannot be read.
    """

    run: str
    documents: int
    unchanged: int
    gone: int
    pruned: int
    images: int
    chunks: int
    rejected: int
    known_rejected: int
    encoded_images: int
    encoded_chunks: int
    elapsed_s: float
    images_per_s: float
    stage_s: dict[str, float]
    index: dict[str, Any]
    same_pictures: int | None
    near_duplicates: int | None
    differing_stores: Sequence[str] = ()
    unclear: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(
    run: Run,
    plan: Plan,
    finished: Finished,
    ledger: Ledger,
    elapsed_s: float,
    encode_s: float,
    pruned: int,
    alike: Alike | None,
    differing_stores: Sequence[str],
) -> Summary:
    return Summary(
        run=run.name,
        documents=finished.documents,
        unchanged=plan.unchanged,
        gone=sum(map(len, plan.gone.values())),
        pruned=pruned,
        images=finished.images,
        chunks=finished.chunks,
        rejected=finished.rejected,
        known_rejected=plan.known_rejected,
        encoded_images=finished.encoded_images,
        encoded_chunks=finished.encoded_chunks,
        elapsed_s=round(elapsed_s, 3),
        images_per_s=round(finished.images / encode_s, 2) if encode_s else 0.0,
        stage_s={stage: round(seconds, 3) for stage, seconds in finished.stage_s.items()},
        index=ledger.totals(),
        same_pictures=alike.same if alike else None,
        near_duplicates=alike.near if alike else None,
        differing_stores=differing_stores,
        unclear=sum(plan.unclear.values()),
    )


def check_rejected(totals: Mapping[str, Any], unlisted: int, limit: float) -> None:
    """Raise MmragError where more of the parts that the index knows of are refused than `limit`.

    `totals` are the ledger's, and `unlisted` the refusals of listing, which it does not count. By what stands
    after a run, not by what the run did: one with little to do meets the old refusals again, and one that was
    resumed not those of its first half.
    """
    rejected = totals["rejected"] + unlisted
    parts = totals["images"] + totals["chunks"] + rejected
    if parts and rejected / parts > limit:
        raise MmragError(
            f"{rejected:,} of {parts:,} parts were refused, more than ingest.max_rejected_fraction "
            f"{limit:g}; the reasons are in rejected/*.parquet of the index"
        )
