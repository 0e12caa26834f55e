"""The bytes at an address, of a file or of what lies inside one (`inside`). Knows nothing of documents."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipelines.core import images
from pipelines.core.errors import BadPart
from pipelines.ingest.sources import files, inside, parquet, pdf
from pipelines.ingest.sources.failures import retried


@contextmanager
def opened(address: str, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    """As `files.opened`, for any address. Raises BadPart."""
    if inside.split(address):
        yield io.BytesIO(read_bytes(address, images.MAX_BYTES if max_bytes is None else max_bytes))
    else:
        with files.opened(address, max_bytes) as stream:
            yield stream


def read_bytes(address: str, max_bytes: int) -> bytes:
    """All of it. Raises BadPart when it is missing, empty, larger, or not in a regular file."""
    within = inside.split(address)
    if within is None:
        return files.read_bytes(address, max_bytes)
    if within.kind == "page":
        return pdf.read_page(within.file, within.first, max_bytes)
    if within.kind == "bytes":
        return retried(lambda: _read_span(within, max_bytes))
    return retried(lambda: parquet.read_picture(within.file, within.first, within.second, max_bytes))


def _read_span(within: inside.Inside, max_bytes: int) -> bytes:
    if within.second > max_bytes:
        raise BadPart(f"{within.file}: holds {within.second:,} bytes, more than the {max_bytes:,} allowed")
    with files.opened(within.file) as stream:
        stream.seek(within.first)
        data = stream.read(within.second)
    if len(data) < within.second:
        raise BadPart(f"{within.file}: ends before byte {within.first + within.second:,}")
    return data
