"""The table that flows through the job: one row a part, and one a document. Knows no stage.

Rows are Arrow, so a batch crosses processes without a copy. A refused row keeps flowing with its
`stage` and `reason` set, and becomes a dead letter at the end: a bad row is data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from pipelines.core.types import Part

DOCUMENT = "document"  # the kind of the row that stands for the document itself

SCHEMA = pa.schema(
    [
        ("document_key", pa.string()),
        ("key", pa.string()),
        ("kind", pa.string()),
        ("id", pa.string()),
        ("document_id", pa.string()),
        ("tenant", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("content", pa.string()),  # SHA-256 of the picture's file
        ("perceptual", pa.uint64()),  # hash of what the picture shows, see perceptual_hash.py
        ("image_ids", pa.list_(pa.string())),
        ("metadata", pa.string()),  # JSON
        ("scope", pa.string()),  # document rows: the SOURCE that it was listed in
        ("address", pa.string()),  # where the picture's bytes are
        ("reading", pa.string()),  # the text that is known to stand in the picture, see core/readings.py
        ("inputs", pa.list_(pa.string())),  # document rows: files that the document depends on
        ("stamp", pa.string()),  # document rows: of the item and its inputs, see hashing.py
        ("digest", pa.string()),
        ("num_parts", pa.int32()),  # document rows
        ("place", pa.int64()),  # document rows: in the listing
        ("stage", pa.string()),  # where the row was refused, else null
        ("reason", pa.string()),
        ("pixels", pa.large_binary()),  # all scales, one after another
        ("vector", pa.binary()),  # float32
        ("encoded", pa.bool_()),  # the vector was computed in this run
        ("parse_s", pa.float64()),  # this row's share of each stage's time
        ("load_s", pa.float64()),
        ("encode_s", pa.float64()),
    ]
)

Row = dict[str, Any]


def part_row(part: Part, **extra: Any) -> Row:
    return {
        "document_key": part.document_key,
        "key": part.key,
        "kind": part.kind,
        "id": part.id,
        "document_id": part.document_id,
        "tenant": part.tenant,
        "source": part.source,
        "text": part.text,
        "content": part.content,
        "image_ids": list(part.image_ids),
        "metadata": json.dumps(dict(part.metadata), ensure_ascii=False),
        **extra,
    }


def row_part(row: Mapping[str, Any]) -> Part:
    return Part(
        id=row["id"],
        kind=row["kind"],
        document_id=row["document_id"],
        source=row["source"],
        text=row["text"] or "",
        content=row["content"] or "",
        image_ids=tuple(row["image_ids"] or ()),
        metadata=json.loads(row["metadata"] or "{}"),
        tenant=row["tenant"] or "",
    )


def refuse(row: Row, stage: str, reason: str) -> Row:
    return row | {"stage": stage, "reason": reason}


def table(rows: Iterable[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)
