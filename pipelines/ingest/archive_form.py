"""What an export holds: its data sets, `export.json` and the mark of one that goes on. Knows no file system.

`export.json` and the mark may be anybody's: names in them have forms that lead nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, StringConstraints

from pipelines.core.previews import MAX_PREVIEW_BYTES
from pipelines.core.stores.records import MAX_TEXT_BYTES
from pipelines.ingest import ledger, rows
from pipelines.ingest.near_duplicates import PICTURES_SCHEMA, REPORT_SCHEMA

Name = Literal["visual", "text", "previews", "readings", "ledger", "pictures", "near_duplicates"]
FORMAT: Final = 3
CONTENTS, COMING, UNFINISHED = "export.json", "export.json.new", "export.unfinished"
FOLDER: Final = "data-[0-9a-f]{32}"
FIRST_FORMAT: Final = frozenset(["visual", "text", "previews", "readings", "ledger"])
"""The folders beside `export.json` in which the first format had its shards."""
_Folder = Annotated[str, StringConstraints(pattern=f"^({FOLDER})?$")]
# A page of a PDF gives 2,000 lines of 100,000 characters. OCR finds 1,000 lines in a picture at most, each
# of fewer characters than the 4,096 pixels of its longest side. A character has four bytes at most.
_MAX_READING_BYTES: Final = 16 * 2**20
_PART_FIELDS: Final = (
    "id", "kind", "document_id", "source", "tenant", "text", "content", "image_ids", "metadata",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class DataSet:
    """The form of a kind of shard. `batch_rows` are read at once; a text or blob has at most `max_bytes`, and
    none but those of `may_be_null` are missing."""

    name: Name
    schema: pa.Schema
    batch_rows: int = 512
    max_bytes: int = MAX_TEXT_BYTES
    may_be_null: tuple[str, ...] = ()


def parts(name: Literal["visual", "text"], dim: int) -> DataSet:
    fields = [rows.SCHEMA.field(field) for field in _PART_FIELDS]
    return DataSet(name, pa.schema([*fields, ("vector", pa.list_(pa.float32(), dim))]))


PREVIEWS: Final = DataSet(
    "previews", pa.schema([("content", pa.string()), ("jpeg", pa.binary())]), 16, MAX_PREVIEW_BYTES
)
READINGS: Final = DataSet(
    "readings", pa.schema([("content", pa.string()), ("reading", pa.string())]), 8, _MAX_READING_BYTES
)
LEDGER: Final = DataSet("ledger", ledger.SCHEMA)
PICTURES: Final = DataSet("pictures", PICTURES_SCHEMA, may_be_null=("perceptual",))
NEAR_DUPLICATES: Final = DataSet("near_duplicates", REPORT_SCHEMA)


class Shards(BaseModel):
    """The number of rows of each shard, in order; None where an earlier version wrote no such data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    visual: tuple[NonNegativeInt, ...]
    text: tuple[NonNegativeInt, ...]
    previews: tuple[NonNegativeInt, ...]
    readings: tuple[NonNegativeInt, ...]
    ledger: tuple[NonNegativeInt, ...]
    pictures: tuple[NonNegativeInt, ...] | None = None
    near_duplicates: tuple[NonNegativeInt, ...] | None = None

    def of(self, name: Name) -> tuple[int, ...]:
        return getattr(self, name) or ()

    def total(self, name: Name) -> int:
        return sum(self.of(name))


class PastRun(BaseModel):
    """A line of `last-runs.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str
    documents: int
    unchanged: int
    images: int
    chunks: int
    rejected: int
    elapsed_s: float = Field(allow_inf_nan=False)


class Contents(BaseModel):
    """`export.json`. `identity` is that of the index, `folder` that of the shards; `refused`, `last_runs` and
    `last_ingest` are what the index keeps under these names, the last one None before there was any. What a
    format before the third lacks is "" or None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1, 2, 3] = FORMAT
    identity: str = ""
    folder: _Folder = ""
    mmrag: str
    created: str
    space: Mapping[str, Any]
    text_space: Mapping[str, Any]
    metadata_types: Mapping[str, Literal["bool", "number", "str"]]
    refused: Mapping[str, NonNegativeInt] | None = None
    last_runs: tuple[PastRun, ...] | None = None
    last_ingest: float | None = Field(None, ge=0, allow_inf_nan=False)
    shards: Shards

    @property
    def names(self) -> set[str]:
        """What of an address belongs to it."""
        return {CONTENTS, *([self.folder] if self.folder else FIRST_FORMAT)}

    @property
    def lacks(self) -> tuple[str, ...]:
        """What it does not hold, because an earlier version wrote it."""
        both = {**dict(self.shards), "refused": self.refused, "last_runs": self.last_runs}
        return tuple(name for name, held in both.items() if held is None)


class Mark(BaseModel):
    """`export.unfinished`: which index's export goes on, and in which folder. Once it told neither."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str = ""
    folder: _Folder = ""
