"""The bytes at an address, of a file or of what lies inside one (`inside`). Knows nothing of documents."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipelines.core import images
from pipelines.ingest.sources import files, inside, parquet


@contextmanager
def opened(address: str) -> Iterator[BinaryIO]:
    """As `files.opened`, for any address. Raises BadPart."""
    if inside.split(address):
        yield io.BytesIO(read_bytes(address, images.MAX_BYTES))
    else:
        with files.opened(address) as stream:
            yield stream


def read_bytes(address: str, max_bytes: int) -> bytes:
    """All of it. Raises BadPart when it is missing, empty, larger, or not in a regular file."""
    within = inside.split(address)
    if within is None:
        return files.read_bytes(address, max_bytes)
    return parquet.read_picture(within.file, within.first, within.second, max_bytes)
