"""What every store may be given, and how a part looks as a row. Knows no vendor.

The limits are the narrowest of the stores, so that an index can move from one to another; they
are checked in the client because the stores' own reactions differ: truncation, a dropped term,
a refused batch, NaN accepted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import StoreError
from pipelines.core.stores.milvus_filter import dynamic_fields
from pipelines.core.types import Part, Scalar

MAX_TEXT_BYTES: Final = 65_535  # a Milvus VARCHAR
MAX_FIELD_BYTES: Final = 8_192  # an id, an address, a metadata string: indexed as one term
MAX_NAME_BYTES: Final = 512
MAX_JSON_BYTES: Final = 60_000  # Milvus allows 65,536 a JSON field

_INT64: Final = range(-(2**63), 2**63)


def check_parts(parts: Sequence[Part]) -> None:
    """Raise StoreError, naming the part, if one cannot be kept by every store."""
    for part in parts:
        _check_text(part, "id", part.id, MAX_FIELD_BYTES)
        _check_text(part, "document_id", part.document_id, MAX_FIELD_BYTES)
        _check_text(part, "tenant", part.tenant, MAX_FIELD_BYTES)
        _check_text(part, "source", part.source, MAX_FIELD_BYTES)
        _check_text(part, "content", part.content, MAX_FIELD_BYTES)
        _check_text(part, "text", part.text, MAX_TEXT_BYTES)
        for name, value in part.metadata.items():
            _check_text(part, "a metadata name", name, MAX_NAME_BYTES)
            _check_scalar(part, name, value)
        _check_text(part, "metadata", dump(dynamic_fields(part.metadata)), MAX_JSON_BYTES)  # the longer form
        _check_text(part, "image_ids", dump(part.image_ids), MAX_JSON_BYTES)


def check_vectors(vectors: NDArray[np.float32], count: int, dim: int) -> None:
    """Raise StoreError unless `vectors` is (count, dim), real and finite."""
    if vectors.shape != (count, dim):
        raise StoreError(f"expected vectors of shape {(count, dim)}, got {vectors.shape}")
    if vectors.dtype.kind != "f":
        raise StoreError(f"expected float vectors, got {vectors.dtype}")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise StoreError(f"vector {int(np.argmin(finite))} of {count} has NaN or infinity")


def last_of_each(parts: Sequence[Part]) -> dict[str, int]:
    """Key -> position of its last part: what remains when a batch names a key twice."""
    return {part.key: position for position, part in enumerate(parts)}


def to_row(part: Part) -> dict[str, Any]:
    """The part as plain fields; `image_ids` and `metadata` are JSON text."""
    return {
        "key": part.key,
        "document_key": part.document_key,
        "id": part.id,
        "kind": part.kind,
        "document_id": part.document_id,
        "source": part.source,
        "tenant": part.tenant,
        "text": part.text,
        "content": part.content,
        "image_ids": dump(part.image_ids),
        "metadata": dump(part.metadata),
    }


def from_row(row: Mapping[str, Any]) -> Part:
    """The part that `to_row` wrote. `image_ids` and `metadata` may be text or already decoded."""
    return Part(
        id=row["id"],
        kind=row["kind"],
        document_id=row["document_id"],
        source=row["source"],
        tenant=row["tenant"],
        text=row["text"],
        content=row["content"],
        image_ids=tuple(_load(row["image_ids"])),
        metadata=_load(row["metadata"]),
    )


def dump(value: Mapping[str, Scalar] | Sequence[str]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _load(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


def _check_text(part: Part, field: str, text: str, limit: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as exc:
        raise StoreError(f"part {part.id!r}: {field} is not valid Unicode") from exc
    if size > limit:
        raise StoreError(f"part {part.id[:200]!r}: {field} has {size} bytes; at most {limit} can be stored")


def _check_scalar(part: Part, name: str, value: Scalar) -> None:
    if type(value) not in (str, int, float, bool):
        raise StoreError(
            f"part {part.id!r}: metadata {name!r} is a {type(value).__name__}; "
            "only strings, numbers, true and false can be stored"
        )
    if isinstance(value, str):
        _check_text(part, f"metadata {name!r}", value, MAX_FIELD_BYTES)
    elif isinstance(value, float) and not math.isfinite(value):
        raise StoreError(f"part {part.id!r}: metadata {name!r} is {value}")
    elif isinstance(value, int) and value not in _INT64:
        raise StoreError(f"part {part.id!r}: metadata {name!r} does not fit in 64 bits")
