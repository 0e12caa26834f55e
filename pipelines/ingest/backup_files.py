"""What of an index stands beside its stores, as tables of an export and back as files. Knows no store.

Nothing of an export is believed: a picture's content hash names files, also those that are deleted with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipelines.core import last_ingest
from pipelines.core.errors import BadImage
from pipelines.core.files import replaced
from pipelines.core.near_duplicates import FILE as REPORT
from pipelines.core.previews import check_preview, preview_path, write_preview
from pipelines.core.readings import format_reading, load_reading, parse_reading, save_reading
from pipelines.core.types import is_sha256, store_key
from pipelines.ingest import history, refused
from pipelines.ingest.archive import Archive
from pipelines.ingest.archive_form import (
    NEAR_DUPLICATES,
    PICTURES,
    PREVIEWS,
    READINGS,
    Contents,
    DataSet,
    PastRun,
)
from pipelines.ingest.near_duplicates import PICTURES as PICTURES_FILE

Progress = Callable[[str, int, int], None]
"""(what is being done, how much of it is done, how much there is)."""

_PREVIEWS_A_TABLE: Final = 16
_READINGS_A_TABLE: Final = 512
_READING_CHARS_A_TABLE: Final = 2**22


def previews(root: Path, contents: Sequence[str], progress: Progress) -> Iterator[pa.Table]:
    """Tables of the previews that are there and sound."""
    for start in range(0, len(contents), _PREVIEWS_A_TABLE):
        progress("exporting previews", start, len(contents))
        found = []
        for content in contents[start : start + _PREVIEWS_A_TABLE]:
            try:
                data = preview_path(root, content).read_bytes()
                check_preview(data)
            except (FileNotFoundError, BadImage):
                continue  # counted by `Moved.missing_previews`
            found.append({"content": content, "jpeg": data})
        if found:
            yield pa.Table.from_pylist(found, schema=PREVIEWS.schema)


def restore_previews(root: Path, archive: Archive, contents: Contents, progress: Progress) -> None:
    done, total = 0, contents.shards.total("previews")
    for file, table in archive.read(PREVIEWS, contents):
        progress("importing previews", done, total)
        for content, jpeg in zip(*(column.to_pylist() for column in table.columns), strict=True):
            with archive.checked(file):
                _require_sha256("preview", content)
                check_preview(jpeg)
            write_preview(root, content, jpeg)
        done += len(table)


def readings(root: Path, contents: Sequence[str]) -> Iterator[pa.Table]:
    """Tables of the pictures that were read. A page of a PDF may have as much text as a chapter."""
    found: list[dict[str, str]] = []
    for content in contents:
        if reading := load_reading(root, content):
            found.append({"content": content, "reading": format_reading(reading)})
        chars = sum(len(row["reading"]) for row in found)
        if len(found) == _READINGS_A_TABLE or chars > _READING_CHARS_A_TABLE:
            yield pa.Table.from_pylist(found, schema=READINGS.schema)
            found = []
    if found:
        yield pa.Table.from_pylist(found, schema=READINGS.schema)


def restore_readings(root: Path, archive: Archive, contents: Contents) -> None:
    for file, table in archive.read(READINGS, contents):
        for row in table.to_pylist():
            with archive.checked(file):
                _require_sha256("reading", row["content"])
                reading = parse_reading(row["reading"])
            save_reading(root, row["content"], reading)


def restore_pictures(home: Path, archive: Archive, contents: Contents) -> None:
    """In place of what is remembered of the parts alone, which an earlier version's export leaves it at."""
    if contents.shards.pictures:
        tables = (_checked(archive, *read) for read in archive.read(PICTURES, contents))
        _write(home / PICTURES_FILE, PICTURES, tables)


def _checked(archive: Archive, file: str, table: pa.Table) -> pa.Table:
    for row in table.to_pylist():
        with archive.checked(file):
            _require_sha256("picture", row["content"])
            if row["document_key"] != store_key(row["tenant"], row["document_id"]):
                raise ValueError(f"picture {row['id'][:200]!r} stands under another document's key")
    return table


def restore_near_duplicates(home: Path, archive: Archive, contents: Contents) -> None:
    """The next ingest writes the report anew, by the hashes of the pictures."""
    if contents.shards.near_duplicates:
        tables = (table for _, table in archive.read(NEAR_DUPLICATES, contents))
        _write(home / REPORT, NEAR_DUPLICATES, tables)
    else:
        (home / REPORT).unlink(missing_ok=True)


def past_runs(directory: Path) -> tuple[PastRun, ...]:
    """None of a damaged file, as the next run writes it anew."""
    try:
        return tuple(PastRun.model_validate(run) for run in history.last_runs(directory))
    except ValidationError:
        return ()


def restore_runs(directory: Path, home: Path, contents: Contents) -> None:
    """The last runs, when the last good one ended, and how much of each source was refused."""
    last_ingest.keep(directory, contents.last_ingest)
    refused.keep(home, contents.refused or {})
    history.keep(directory, [run.model_dump() for run in contents.last_runs or ()])


def _write(path: Path, data_set: DataSet, tables: Iterable[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path, durable=True) as beside, pq.ParquetWriter(beside, data_set.schema) as writer:
        for table in tables:
            writer.write_table(table)


def _require_sha256(what: str, content: str) -> None:
    if not is_sha256(content):
        raise ValueError(f"a {what} is named {content[:100]!r}, which is no SHA-256")
