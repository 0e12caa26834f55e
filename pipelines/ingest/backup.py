"""Move an index out to an export and back in, between stores of any kind. Knows no Ray and no file's form.

Nothing is encoded: vectors move as they are. Of the lexical store only the parts are counted, as it holds
the same chunks as the text collection. An export holds what is kept of the pictures, but no cached vectors,
no replies of a captioner and no dead letters.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines import __version__
from pipelines.core.errors import BadExport, OtherIndex, StoreError, StoreUnavailable, UsageError
from pipelines.core.identity import identity
from pipelines.core.index import Index
from pipelines.core.last_ingest import last_ingest
from pipelines.core.manifest import Manifest, standing
from pipelines.core.stores import Vectors, VectorStore
from pipelines.core.stores.records import check_parts, check_vectors
from pipelines.core.types import Part, is_sha256, store_key
from pipelines.ingest import backup_files, near_duplicates, refused
from pipelines.ingest.archive import Archive
from pipelines.ingest.archive_form import (
    LEDGER,
    NEAR_DUPLICATES,
    PICTURES,
    PREVIEWS,
    READINGS,
    Contents,
    DataSet,
    Shards,
    parts,
)
from pipelines.ingest.backup_files import Progress
from pipelines.ingest.counts import disagreeing
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.metadata import conflict
from pipelines.ingest.rows import part_row, row_part
from pipelines.ingest.sink import recover

_KINDS: Final = {"visual": "image", "text": "chunk"}
_LOST: Final = (
    "Nothing was exported. If the index was filled before, its stores are elsewhere or lost: do "
    "stores.milvus and stores.elastic name its own, address and prefix? `mmrag ingest SOURCE --rebuild` "
    "makes it anew, `mmrag import` of an earlier export fills a new --index"
)
_LEDGER_ROWS_A_TABLE: Final = 8192


@dataclass(frozen=True, slots=True)
class Moved:
    """What an export holds or an import brought. `missing_previews` pictures have no usable preview; `lacks`
    names what an export of an earlier version does not hold."""

    address: str
    documents: int
    images: int
    chunks: int
    previews: int
    missing_previews: int
    lacks: tuple[str, ...]
    elapsed_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def export_index(
    index: Index,
    address: str,
    progress: Progress = lambda what, done, total: None,
    *,
    replace: bool = False,
) -> Moved:
    """Write the whole index to `address`, where an earlier export of it stands until this one is whole.

    Without `replace` that of another index stands for good, and so does one of parts where this has none.
    Nobody writes meanwhile, and no store is made. Raises UsageError, IndexLocked, BadExport when it cannot be
    written, and StoreError, before anything is written, where a store lacks what the ledger says.
    """
    start = time.perf_counter()
    archive = Archive(address)
    index.manifest()  # before the lock, which would make the directory
    pictures: set[str] = set()

    def named(found: Sequence[Part]) -> None:
        pictures.update(part.content for part in found if part.content)

    with index.write_lock():
        ledger, manifest = _whole(index), index.manifest()
        name, is_empty = identity(index.directory), not any(ledger.parts().values())
        folder = archive.begin(name, is_empty=is_empty, replace=replace)
        visual, text = _parts("visual", manifest), _parts("text", manifest)
        write = partial(archive.write, folder)
        shards = Shards(
            visual=write(visual, _scanned(index.visual(), visual, progress, named)),
            text=write(text, _scanned(index.text(), text, progress)),
            previews=write(PREVIEWS, backup_files.previews(index.previews, sorted(pictures), progress)),
            readings=write(READINGS, backup_files.readings(index.readings, sorted(pictures))),
            ledger=write(LEDGER, _ledger_tables(ledger)),
            pictures=write(PICTURES, near_duplicates.standing(index.home, ledger)),
            near_duplicates=write(NEAR_DUPLICATES, near_duplicates.standing_report(index.home, ledger)),
        )
        contents = Contents(
            identity=name,
            folder=folder,
            mmrag=__version__,
            created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            space=manifest.space,
            text_space=manifest.text_space,
            metadata_types=manifest.metadata_types,
            refused=refused.counts(index.home),
            last_runs=backup_files.past_runs(index.directory),
            last_ingest=last_ingest(index.directory),
            shards=shards,
        )
        archive.end(contents)
    return _moved(archive, contents, len(pictures), start)


def import_index(index: Index, address: str, progress: Progress = lambda what, done, total: None) -> Moved:
    """Fill a new or empty index, whatever its stores are, with what was exported to `address`.

    One that is cut short can be run again: until its end there is no index. Raises UsageError for an index
    that holds documents and where there is no whole export, SpaceMismatch, IndexLocked, StoreError, and
    BadExport, which names the file, when the export is damaged.
    """
    start = time.perf_counter()
    archive = Archive(address)
    contents = archive.contents()
    generation = standing(index.directory)  # whose stores are looked into, and filled if they are empty
    manifest = Manifest(contents.space, contents.text_space, contents.metadata_types, *generation)
    index.check_spaces(manifest)
    index.expected_rows = max(contents.shards.total("visual"), contents.shards.total("text"))
    with index.write_lock(), index.restored(manifest) as begin:
        _open_vectors(index)
        _make_room(index)
        begin()
        pictures = _fill(index, archive, contents, progress)
        with _flushing(index):
            _restore_files(index, archive, contents, progress)
        _check_counts(index, contents.shards)
        _read_ledger(archive, contents, index.home)
    return _moved(archive, contents, pictures, start)


def _whole(index: Index) -> Ledger:
    """The ledger, once the stores are known to hold what it says. Raises StoreError."""
    index.makes_stores = False  # one that is not there is lost, or elsewhere
    try:
        ledger = recover(index)
        _open_vectors(index)
        for store in index.stores.values():
            store().flush()
        wrong = disagreeing(index, ledger)
    except (StoreUnavailable, OtherIndex):
        raise
    except StoreError as exc:
        raise StoreError(f"{exc}. {_LOST}") from exc
    if wrong:
        raise StoreError(f"the stores do not hold what the ledger says ({'; '.join(wrong)}). {_LOST}")
    return ledger


def _open_vectors(index: Index) -> None:
    """Side by side: embedded servers take seconds to start, longer than a small index to move."""
    with ThreadPoolExecutor() as pool:
        for opening in [pool.submit(store) for store in (index.visual, index.text)]:
            opening.result()


def _parts(name: Literal["visual", "text"], manifest: Manifest) -> DataSet:
    return parts(name, (manifest.space if name == "visual" else manifest.text_space)["dim"])


def _scanned(
    store: VectorStore,
    data_set: DataSet,
    progress: Progress,
    seen: Callable[[Sequence[Part]], None] = lambda found: None,
) -> Iterator[pa.Table]:
    """Tables of everything that the store holds. StoreError when it shows another number than it counts."""
    total, done = store.count(), 0
    part_schema = pa.schema(list(data_set.schema)[:-1])
    for found, vectors in store.scan():
        progress(f"exporting {data_set.name}", done, total)
        seen(found)
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, store.dim)
        table = pa.Table.from_pylist([part_row(part) for part in found], schema=part_schema)
        yield table.append_column(data_set.schema.field("vector"), column)
        done += len(found)
    if done != total:
        raise StoreError(f"the {data_set.name} store showed {done:,} of its {total:,} parts; export again")


def _ledger_tables(ledger: Ledger) -> Iterator[pa.Table]:
    for rows in ledger.tables():
        for name in ("stamp", "scope"):  # a row that an earlier version wrote has none
            column = rows.schema.get_field_index(name)
            rows = rows.set_column(column, name, rows[name].fill_null(""))
        for start in range(0, len(rows), _LEDGER_ROWS_A_TABLE):
            yield rows.slice(start, _LEDGER_ROWS_A_TABLE)


def _make_room(index: Index) -> None:
    """Delete what an import that was cut short left. Raises UsageError unless the index is empty then."""
    if index.half_restored:
        Ledger.drop(index.home)
        chunks = _keys(index.text())  # among them all of the lexical store's, which are written later
        index.lexical().delete(chunks)
        index.lexical().flush()
        index.text().delete(chunks)
        index.visual().delete(_keys(index.visual()))
    elif documents := len(recover(index)):
        raise UsageError(
            f"{index.directory} holds {documents:,} documents; import into a new --index directory"
        )
    for name, store in index.stores.items():
        if count := store().count():
            raise UsageError(
                f"the {name} store holds {count:,} parts of another index; "
                "import into a new --index directory, with stores or prefixes of its own"
            )


def _keys(store: VectorStore) -> list[str]:
    return [part.key for found, _ in store.scan() for part in found]


def _fill(index: Index, archive: Archive, contents: Contents, progress: Progress) -> int:
    """Write all parts to the stores. Returns the number of distinct pictures."""
    held = [near_duplicates.PICTURES_SCHEMA.empty_table()]
    for found, vectors in _read_parts(archive, _parts("visual", index.manifest()), contents, progress):
        index.visual().upsert(found, vectors)
        held.append(near_duplicates.pictures_of_parts(found))
    pictures = pa.concat_tables(held)
    near_duplicates.restore(index.home, pictures)
    for found, vectors in _read_parts(archive, _parts("text", index.manifest()), contents, progress):
        index.text().upsert(found, vectors)
        index.lexical().upsert(found)
    return int(pc.count_distinct(pictures["content"]).as_py())


def _read_parts(
    archive: Archive, data_set: DataSet, contents: Contents, progress: Progress
) -> Iterator[tuple[list[Part], Vectors]]:
    done, total = 0, contents.shards.total(data_set.name)
    for file, table in archive.read(data_set, contents):
        progress(f"importing {data_set.name}", done, total)
        with archive.checked(file):
            found = [row_part(row) for row in table.drop_columns(["vector"]).to_pylist()]
            for part in found:
                _check_part(part, _KINDS[data_set.name], contents.metadata_types)
            check_parts(found)
            dim = data_set.schema.field("vector").type.list_size
            flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            vectors = flat.reshape(-1, dim)
            check_vectors(vectors, len(found), dim)
        yield found, vectors
        done += len(found)


def _check_part(part: Part, kind: str, types: Any) -> None:
    """Raises ValueError for a part that no ingest writes."""
    if part.kind != kind:
        raise ValueError(f"part {part.id!r} is a {part.kind!r} among {kind}s")
    if kind == "image" and part.content and not is_sha256(part.content):
        raise ValueError(f"part {part.id!r}: its content is no SHA-256")
    if not isinstance(part.metadata, dict):
        raise ValueError(f"part {part.id!r}: its metadata is no object")
    if unknown := part.metadata.keys() - types.keys():
        raise ValueError(f"part {part.id!r}: metadata {min(unknown)!r} has no type in export.json")
    if reason := conflict(part.metadata, types):
        raise ValueError(f"part {part.id!r}: {reason}")


@contextmanager
def _flushing(index: Index) -> Iterator[None]:
    """The stores are flushed, side by side and beside what is done in the block, when that ends."""
    with ThreadPoolExecutor() as pool:
        flushing = [pool.submit(store().flush) for store in index.stores.values()]
        yield
        for flush in flushing:
            flush.result()


def _restore_files(index: Index, archive: Archive, contents: Contents, progress: Progress) -> None:
    backup_files.restore_previews(index.previews, archive, contents, progress)
    backup_files.restore_readings(index.readings, archive, contents)
    backup_files.restore_pictures(index.home, archive, contents)
    backup_files.restore_near_duplicates(index.home, archive, contents)
    backup_files.restore_runs(index.directory, index.home, contents)


def _check_counts(index: Index, shards: Shards) -> None:
    for name, store in index.stores.items():
        expected = shards.total("visual" if name == "visual" else "text")
        if (count := store().count()) != expected:
            raise BadExport(
                f"the {name} store holds {count:,} parts after {expected:,} were imported; run it again"
            )


def _read_ledger(archive: Archive, contents: Contents, home: Path) -> None:
    tables = [LEDGER.schema.empty_table()]
    for file, table in archive.read(LEDGER, contents):
        with archive.checked(file):
            for row in table.select(["document_key", "tenant", "document_id"]).to_pylist():
                if row["document_key"] != store_key(row["tenant"], row["document_id"]):
                    raise ValueError(f"document {row['document_id'][:200]!r} stands under another's key")
        tables.append(table)
    rows = pa.concat_tables(tables)
    if twice := len(rows) - len(pc.unique(rows["document_key"])):
        raise BadExport(f"{archive.address}: {twice} documents stand twice in the ledger")
    Ledger(home).changed(rows)


def _moved(archive: Archive, contents: Contents, pictures: int, start: float) -> Moved:
    shards = contents.shards
    previews = shards.total("previews")
    return Moved(
        address=archive.address,
        documents=shards.total("ledger"),
        images=shards.total("visual"),
        chunks=shards.total("text"),
        previews=previews,
        missing_previews=max(0, pictures - previews),
        lacks=contents.lacks,
        elapsed_s=round(time.perf_counter() - start, 3),
    )
