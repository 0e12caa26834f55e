"""Files that appear whole or not at all: written beside their place, then moved there. Knows no format."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replaced(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A new file to write in the folder of `path`, which takes its place when the block ends. After an error
    it is deleted, and `path` is as it was.

    No other process or machine writes under the same name; it begins with a dot. `durable`: a power cut
    leaves the old file or the new one, too, and not an empty one. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield beside
        if durable:
            sync(beside)
        beside.replace(path)
    except BaseException:
        with suppress(OSError):  # what went wrong before tells more
            beside.unlink(missing_ok=True)
        raise
    if durable:
        with suppress(OSError):  # not every file system knows this of a folder
            sync(path.parent)


def replace_file(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a small file, text as UTF-8, over one that may be there; see `replaced`."""
    with replaced(path, durable=durable) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


def sync(path: Path) -> None:
    """Wait until the disk holds a file, or the names in a folder. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
