"""Files that appear whole or not at all: written beside their place, then moved there; and what to do where
the disk takes none. Knows no format."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipelines.core.errors import MmragError

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_BROKEN: Final = (errno.EIO, errno.ESTALE)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Raises MmragError for what a disk refuses of the block: it is full, read-only, or broken. The error
    names the file, or else `where`. Any other OSError is left as it is."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _NO_ROOM:
            advice = "make room there"
        elif exc.errno in _NOT_WRITABLE:
            advice = "let this user write there"
        elif exc.errno in _BROKEN:
            advice = "look after the disk"
        else:
            raise
        raise MmragError(
            f"{exc.filename or where}: {os.strerror(exc.errno)}; {advice}, and run the same command again"
        ) from exc


@contextmanager
def replaced(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """A new file to write in the folder of `path`, which takes its place when the block ends. After an error
    it is deleted, and `path` is as it was.

    No other process or machine writes under the same name; it begins with a dot. `durable`: a power cut
    leaves the old file or the new one, too, and not an empty one. Raises OSError, which names `path` where it
    named no file.
    """
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield beside
        if durable:
            sync(beside)
        beside.replace(path)
    except BaseException as exc:
        with suppress(OSError):  # what went wrong before tells more
            beside.unlink(missing_ok=True)
        if isinstance(exc, OSError) and exc.errno and exc.filename is None:
            exc.filename = str(path)  # of a write that failed, unlike of an opening, it is not told
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
