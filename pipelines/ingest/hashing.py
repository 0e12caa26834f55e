"""Content hashes of a document's files: how a rerun knows that nothing changed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import cast

from pipelines.core.errors import BadPart
from pipelines.ingest.sources.files import opened
from pipelines.ingest.sources.records import Item


def hash_file(address: str) -> str:
    """SHA-256 of a file's bytes, or why it cannot be read: a file that comes back is a change too."""
    try:
        with opened(address) as stream:
            return hashlib.file_digest(cast(io.BufferedIOBase, stream), "sha256").hexdigest()
    except BadPart as exc:
        return f"unreadable: {exc}"


def document_digest(item: Item, inputs: Sequence[str], hashed: Mapping[str, str] | None = None) -> str:
    """Identifies what a document was made from: its item and the content of every input file.

    `hashed` holds what is known of them already.
    """
    hashed = hashed or {}
    hasher = hashlib.sha256(f"{item.form}:{len(item.payload)}:".encode() + item.payload)
    for address in inputs:
        hasher.update(f"{address}={hashed.get(address) or hash_file(address)};".encode())
    return hasher.hexdigest()
