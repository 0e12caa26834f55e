"""What has been ingested: one row a document, in one Parquet file. Knows no store and no Ray.

The ledger is written last. A document that is not in it, or stands there with another digest or
fingerprint, is ingested again, which is safe because every write is an upsert by a fixed key. An
unfinished one, whose run was cut short, has no digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

FILE = "ledger.parquet"
"""Its name in the home of a generation."""

SCHEMA = pa.schema(
    [
        ("document_key", pa.string()),
        ("document_id", pa.string()),
        ("tenant", pa.string()),
        ("source", pa.string()),
        ("scope", pa.string()),  # the SOURCE it was last listed in; null or empty: not known
        ("inputs", pa.list_(pa.string())),
        ("stamp", pa.string()),
        ("digest", pa.string()),
        ("fingerprint", pa.string()),
        ("images", pa.int32()),
        ("chunks", pa.int32()),
        ("rejected", pa.int32()),
        ("status", pa.string()),  # complete | partial | rejected | unfinished
        ("run", pa.string()),
    ]
)


class Ledger:
    """The documents of an index, looked up by key."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        keys = rows.column("document_key").to_pylist()
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._columns = {name: rows[name].combine_chunks() for name in rows.column_names}

    @classmethod
    def load(cls, path: Path) -> Ledger:
        if not path.exists():
            return cls(SCHEMA.empty_table())
        return cls(pq.read_table(path, schema=SCHEMA))

    @property
    def rows(self) -> pa.Table:
        """All of it, as `SCHEMA` says."""
        return self._rows

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, document_key: str) -> bool:
        return document_key in self._row_of

    def row_of(self, document_key: str) -> int | None:
        """The place of a document's row, below `len(self)`."""
        return self._row_of.get(document_key)

    def get(self, document_key: str) -> dict[str, Any] | None:
        row = self._row_of.get(document_key)
        return None if row is None else {name: column[row].as_py() for name, column in self._columns.items()}

    def with_documents_of(self, document_ids: Iterable[str], tenant: str | None = None) -> pa.Table:
        """The rows of these document ids (of one tenant, or of all)."""
        rows = self._rows.filter(
            pc.is_in(self._rows["document_id"], pa.array(list(document_ids), pa.string()))
        )
        return rows if tenant is None else rows.filter(pc.equal(rows["tenant"], tenant))

    def in_scopes(self, scopes: Iterable[str], without: NDArray[np.bool_]) -> pa.Table:
        """The rows that were last listed in one of the scopes, but those that `without` (N,) marks."""
        listed = pc.is_in(self._rows["scope"], pa.array(list(scopes), pa.string()))
        return self._rows.filter(pc.and_(listed, pa.array(~without)))

    def documents_in(self, scope: str) -> int:
        return pc.sum(pc.equal(self._rows["scope"], scope)).as_py() or 0

    def scopes(self) -> set[str]:
        """The sources that documents were last listed in, those that are known."""
        return set(filter(None, pc.unique(self._rows["scope"]).to_pylist()))

    def rescoped(self, scope_of: Mapping[str, str]) -> Ledger:
        """A ledger in which these documents, by key, were last listed in other scopes."""
        if not scope_of:
            return self
        scopes = self._rows["scope"].to_pylist()
        for key, scope in scope_of.items():
            scopes[self._row_of[key]] = scope
        column = SCHEMA.get_field_index("scope")
        return Ledger(self._rows.set_column(column, "scope", pa.array(scopes, pa.string())))

    def updated(self, rows: pa.Table) -> Ledger:
        """A ledger in which `rows` replace the rows of the same documents."""
        return Ledger(pa.concat_tables([self.without(rows["document_key"])._rows, rows.select(SCHEMA.names)]))

    def without(self, document_keys: pa.ChunkedArray | pa.Array) -> Ledger:
        gone = pc.is_in(self._rows["document_key"], pc.unique(document_keys))
        return Ledger(self._rows.filter(pc.invert(gone)).combine_chunks())

    def totals(self) -> dict[str, Any]:
        """Sums over all documents, and how many documents have each status."""
        sums = {name: pc.sum(self._rows[name]).as_py() or 0 for name in ("images", "chunks", "rejected")}
        statuses = pc.value_counts(self._rows["status"].combine_chunks()).to_pylist() if len(self) else []
        by_status = {entry["values"]: entry["counts"] for entry in statuses}
        return {"documents": len(self), **sums, "status": by_status}

    def parts(self) -> dict[str, int]:
        """How many parts each store holds when it agrees."""
        totals = self.totals()
        return {"visual": totals["images"], "text": totals["chunks"], "lexical": totals["chunks"]}

    def save(self, path: Path) -> None:
        """Replace the file at once, so that a reader or a crash sees the old ledger or the new one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        pq.write_table(self._rows, beside)
        beside.replace(path)
