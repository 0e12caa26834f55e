"""Which pictures of an index are the same, or look the same, by their perceptual hashes. Knows no store.

Beside the ledger lie `pictures.parquet`, the hash of every picture, and the report `near-duplicates.parquet`:
a row for each picture that is like an earlier one of its tenant. A remembered picture counts as long as its
document stands in the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.core.files import replaced
from pipelines.core.near_duplicates import FILE as REPORT
from pipelines.core.near_duplicates import damage_told
from pipelines.core.space import digest
from pipelines.core.types import Part
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.perceptual_hash import BITS

log = logging.getLogger(__name__)

PICTURES = "pictures.parquet"
RULES = "alike/1"
"""The version of these rules, for the report: raise it with any change of what is like what."""
_MADE_OF = b"made_of"
_MOST_COMPARED = 10_000
"""Of pages that hardly differ there may be any number, and to compare all with all takes its square."""
_ROWS_AT_ONCE = 8192

PICTURES_SCHEMA = pa.schema(
    [
        ("document_key", pa.string()),
        ("document_id", pa.string()),
        ("tenant", pa.string()),
        ("id", pa.string()),
        ("content", pa.string()),  # SHA-256 of its file
        ("perceptual", pa.uint64()),  # null: without structure
    ]
)
REPORT_SCHEMA = pa.schema(
    [
        ("tenant", pa.string()),
        ("picture", pa.string()),
        ("like", pa.string()),  # the first picture that it is like
        ("distance", pa.int32()),  # bits of their hashes that differ
        ("is_same_file", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class Alike:
    """How many pictures are the same file as an earlier one, and how many others look like one."""

    same: int
    near: int


def pictures_of(acks: pa.Table) -> pa.Table:
    """What is remembered of acknowledged rows: their good pictures."""
    is_good = pc.and_(pc.equal(acks["kind"], "image"), pc.is_null(acks["reason"]))
    return acks.filter(is_good).select(PICTURES_SCHEMA.names)


def pictures_of_parts(parts: Iterable[Part]) -> pa.Table:
    """What is remembered of pictures whose pixels nobody has: not what they look like."""
    names = [name for name in PICTURES_SCHEMA.names if name != "perceptual"]
    rows = [{name: getattr(part, name) for name in names} for part in parts if part.content]
    return pa.Table.from_pylist(rows, schema=PICTURES_SCHEMA)


def restore(home: Path, pictures: pa.Table) -> None:
    """Remember these pictures and no others."""
    _replace(pictures, home / PICTURES)


def remember(home: Path, pictures: pa.Table, done: pa.ChunkedArray, ledger: Ledger) -> None:
    """Keep the hashes of these pictures instead of what was known of the documents that are `done`. Of others
    an earlier picture may still stand that is not among these."""
    known = _standing(home, ledger)
    is_met = pc.is_in(known["document_key"], pictures["document_key"])
    is_same = pc.and_(is_met, pc.is_in(known["id"], pictures["id"]))
    is_old = pc.or_(is_same, pc.is_in(known["document_key"], done))
    _replace(pa.concat_tables([known.filter(pc.invert(is_old)), pictures]), home / PICTURES)


def write_report(home: Path, ledger: Ledger, max_bits: int) -> Alike:
    """Find and write what is alike among the remembered pictures of the ledger's documents.

    A report of this very ledger stands: the files of a ledger that changed have other names.
    """
    made_of = _of(ledger, max_bits)
    if _made_of(home) == made_of and (standing := _read_whole(home)):
        return standing
    rows = _standing(home, ledger).sort_by([("tenant", "ascending"), ("id", "ascending")])
    tenants = pc.unique(rows["tenant"]).to_pylist()
    of_tenants = (rows.filter(pc.equal(rows["tenant"], tenant)).combine_chunks() for tenant in tenants)
    report = pa.concat_tables([REPORT_SCHEMA.empty_table(), *(_alike(of, max_bits) for of in of_tenants)])
    _replace(report.replace_schema_metadata({_MADE_OF: made_of}), home / REPORT)
    return counted(report)


def drop_stale_report(home: Path, ledger: Ledger, max_bits: int) -> None:
    """Where no report is made any more: what an earlier one says of a ledger that changed since hides
    pictures that are not alike any more."""
    if _made_of(home) != _of(ledger, max_bits):
        (home / REPORT).unlink(missing_ok=True)


def _of(ledger: Ledger, max_bits: int) -> str:
    return digest({"rules": RULES, "max_bits": max_bits, "ledger": ledger.files})


def _made_of(home: Path) -> str:
    """Of what the report was made; "" where it does not say, or there is none that can be read."""
    if not (home / REPORT).exists():
        return ""
    with damage_told(home):
        said: dict[bytes, bytes] = pq.read_schema(home / REPORT).metadata or {}
        return said.get(_MADE_OF, b"").decode()
    return ""


def contents_of(
    home: Path, document_keys: pa.ChunkedArray | None = None, but: pa.Table | None = None
) -> list[str]:
    """The content hashes of what is remembered of these documents, or of all, each once; without those of
    `but`."""
    if not (home / PICTURES).exists():
        return []
    rows = pq.read_table(home / PICTURES, columns=["document_key", "content"])
    if document_keys is not None:
        rows = rows.filter(pc.is_in(rows["document_key"], document_keys))
    if but is not None:
        rows = rows.filter(pc.invert(pc.is_in(rows["content"], but["content"])))
    return pc.unique(rows["content"]).to_pylist()  # type: ignore[no-any-return]


def _standing(home: Path, ledger: Ledger) -> pa.Table:
    return pa.concat_tables([PICTURES_SCHEMA.empty_table(), *standing(home, ledger)])


def standing(home: Path, ledger: Ledger, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """What is remembered of documents that are in the ledger; no table where nothing is of any."""
    if not (home / PICTURES).exists():
        return
    remembered = pq.read_table(home / PICTURES, columns=["document_key"])["document_key"]
    stands = np.zeros(len(remembered), np.bool_)
    for known in ledger.tables(["document_key"]):
        keys = known["document_key"].combine_chunks()
        stands |= pc.is_in(remembered, keys).to_numpy(zero_copy_only=False)
    schema = pa.schema([PICTURES_SCHEMA.field(name) for name in columns or PICTURES_SCHEMA.names])
    yield schema.empty_table()
    done = 0
    with pq.ParquetFile(home / PICTURES) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=schema.names):
            of_these = pa.array(stands[done : done + len(batch)])
            yield pa.Table.from_batches([batch]).filter(of_these).cast(schema)
            done += len(batch)


def standing_report(home: Path, ledger: Ledger) -> Iterator[pa.Table]:
    """The report's rows of which both pictures are of documents in the ledger; no table without a report, and
    with a warning where it is damaged."""
    if not (home / REPORT).exists():
        return
    known = [_names(rows, "id") for rows in standing(home, ledger, ["tenant", "id"])]
    pictures = pa.chunked_array(known, pa.string())
    found = None
    with damage_told(home):
        report = pq.read_table(home / REPORT, columns=REPORT_SCHEMA.names).cast(REPORT_SCHEMA)
        both = (pc.is_in(_names(report, column), pictures) for column in ("picture", "like"))
        found = report.filter(pc.and_(*both))
    if found is not None:
        yield found.slice(0, 0)
        for batch in found.to_batches(_ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])


def _names(rows: pa.Table, column: str) -> pa.Array:
    """Of pictures, with their tenants: of two tenants one id is two pictures."""
    return pc.binary_join_element_wise(rows["tenant"], rows[column], "\0").combine_chunks()


def read_report(home: Path) -> Alike | None:
    """What the last report counted; None where there is none, and with a warning where it is damaged."""
    if not (home / REPORT).exists():
        return None
    with damage_told(home):
        return counted(pq.read_table(home / REPORT, columns=["is_same_file"]))
    return None


def _read_whole(home: Path) -> Alike | None:
    """As `read_report`, but of a report that is sound in all that is ever read of it."""
    with damage_told(home), pq.ParquetFile(home / REPORT) as report:
        batches = report.iter_batches(_ROWS_AT_ONCE, columns=REPORT_SCHEMA.names)
        found = [counted(pa.Table.from_batches([rows])) for rows in batches]
        return Alike(sum(one.same for one in found), sum(one.near for one in found))
    return None


def counted(report: pa.Table) -> Alike:
    same = pc.sum(report["is_same_file"]).as_py() or 0
    return Alike(same, len(report) - same)


def _alike(rows: pa.Table, max_bits: int) -> pa.Table:
    """The report of one tenant's pictures. Of equal files the first stands for all."""
    contents = rows["content"].to_numpy(zero_copy_only=False)
    _, first_of, file_of = np.unique(contents, return_index=True, return_inverse=True)
    first = first_of[file_of]  # of each picture, the first one that is the same file
    hashes = rows["perceptual"]
    chosen = np.flatnonzero(
        (first == np.arange(len(rows))) & hashes.is_valid().to_numpy(zero_copy_only=False)
    )
    values = hashes.take(pa.array(chosen)).to_numpy().astype(np.uint64)
    like = np.arange(len(rows))
    like[chosen] = chosen[first_alike(values, max_bits)]
    like = like[first]
    found = np.flatnonzero(like != np.arange(len(rows)))
    bits = hashes.fill_null(0).to_numpy().astype(np.uint64)
    columns = {
        "tenant": rows["tenant"].take(pa.array(found)),
        "picture": rows["id"].take(pa.array(found)),
        "like": rows["id"].take(pa.array(like[found])),
        "distance": np.bitwise_count(bits[found] ^ bits[like[found]]).astype(np.int32),
        "is_same_file": contents[found] == contents[like[found]],
    }
    return pa.table(columns, schema=REPORT_SCHEMA)


def first_alike(hashes: NDArray[np.uint64], max_bits: int) -> NDArray[np.intp]:
    """Of each hash, the first that stands for itself and differs from it in at most `max_bits`; else its own.

    So nothing is like another over a third: every hash is that near to the one named.
    """
    unique, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    earlier, later = _pairs(unique, max_bits)
    earlier, later = first[earlier], first[later]
    earlier, later = np.minimum(earlier, later), np.maximum(earlier, later)
    like = np.arange(len(hashes))
    for pair in np.lexsort((earlier, later)):  # an earlier hash is settled before what may be like it
        before, after = earlier[pair], later[pair]
        if like[before] == before and like[after] == after:
            like[after] = before
    return like[first[which]]


def _pairs(hashes: NDArray[np.uint64], max_bits: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The places of all pairs of distinct hashes that differ in at most `max_bits`.

    Of `max_bits` + 1 bands of bits two such hashes share one (the pigeonhole principle): only those that
    share a band are compared, each with the next `_MOST_COMPARED` at most.
    """
    edges = np.linspace(0, BITS, max_bits + 2).astype(int)
    found = [np.empty((2, 0), np.intp)]
    for low, high in pairwise(edges):
        band = (hashes >> np.uint64(low)) & np.uint64(2 ** int(high - low) - 1)
        order = np.argsort(band, kind="stable")
        sorted_band, sorted_hashes = band[order], hashes[order]
        places = np.arange(len(hashes))
        for ahead in range(1, len(hashes)):
            places = places[places + ahead < len(hashes)]
            places = places[sorted_band[places] == sorted_band[places + ahead]]
            if not len(places):
                break
            if ahead > _MOST_COMPARED:
                log.warning(
                    "%d pictures have too much in common with others: not all were compared", len(places)
                )
                break
            distance = np.bitwise_count(sorted_hashes[places] ^ sorted_hashes[places + ahead])
            near = places[distance <= max_bits]
            found.append(np.stack([order[near], order[near + ahead]]))
    pairs = np.unique(np.sort(np.concatenate(found, axis=1), axis=0), axis=1)
    return pairs[0], pairs[1]


def _replace(table: pa.Table, path: Path) -> None:
    with replaced(path, durable=True) as beside:
        pq.write_table(table, beside)
