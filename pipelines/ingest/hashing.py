"""How a rerun knows that a document did not change: stamps of its files, and where those differ, hashes.

A stamp is what the file system tells without reading: size, times and inode. The change time cannot be
set by a program, so an edit that keeps size and modification time is seen too. Of a remote
file they are its size and the time of its last write: where a program can set that, as in HDFS, an edit that
keeps both is not seen.

A file that is larger than any that is used has no hash, but its size: to read it would take hours.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import cast

from pipelines.core.errors import BadPart
from pipelines.ingest.sources import inside
from pipelines.ingest.sources.contents import opened
from pipelines.ingest.sources.files import stamp
from pipelines.ingest.sources.records import Item


def hash_file(address: str, max_bytes: int | None = None) -> str:
    """SHA-256 of a file's bytes, or why it is not read: a file that comes back is a change too.

    One of more than `max_bytes` is not read.
    """
    try:
        with opened(address, max_bytes) as stream:
            return hashlib.file_digest(cast(io.BufferedIOBase, stream), "sha256").hexdigest()
    except BadPart as exc:
        return f"unreadable: {exc}"


def stamp_file(address: str) -> str:
    """The stamp of the file at the address, or around what is inside one.

    Empty where none can be trusted: of missing and of fresh files.
    """
    return stamp(inside.file_of(address))


def document_digest(
    item: Item,
    inputs: Sequence[str],
    hashed: Mapping[str, str] | None = None,
    max_bytes: int | None = None,
) -> str:
    """Identifies what a document was made from: its item and the content of every input file, as `hash_file`
    tells it.

    `hashed` holds what is known of them already.
    """
    known = hashed or {}
    hashes = {address: known.get(address) or hash_file(address, max_bytes) for address in inputs}
    return _combined(item, hashes)


def document_stamp(item: Item, inputs: Sequence[str], stamped: Mapping[str, str] | None = None) -> str:
    """As `document_digest`, of the files' stamps; empty where one of them cannot be trusted."""
    known = stamped or {}
    stamps = {a: known[a] if a in known else stamp_file(a) for a in inputs}
    return _combined(item, stamps) if all(stamps.values()) else ""


def _combined(item: Item, states: Mapping[str, str]) -> str:
    described = "".join(f"{address}={state};" for address, state in states.items())
    return hashlib.sha256(f"{item.form}:{len(item.payload)}:{described}".encode() + item.payload).hexdigest()
