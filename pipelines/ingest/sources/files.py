"""Addresses and bytes: which files may be read, and reading them with bounds. Knows nothing of their forms.

An address is canonical: an absolute path without links, or `scheme://bucket/path`. Links are
followed and checked once, when an address is made (`locate`); `read_bytes` follows none.

The path of a remote address is the object's key as it is, no part of a URI: a blank, "#", "?" or "%" in it
stands for itself. So what a document writes cannot name options of a store, such as `endpoint_override`.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from pyarrow import fs as arrow_fs

from pipelines.core.addresses import refuse_secret
from pipelines.core.errors import BadPart, NotAllowed, SourceError
from pipelines.ingest.sources.failures import UNREADABLE, retried
from pipelines.ingest.sources.records import SourceConfig
from pipelines.ingest.sources.text import decode

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_WORD = r"[^/?#@\[\]:\\\s]*"
_HOST = rf"(?:{_WORD}@)?(?:{_WORD}|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?"
# `s3://bucket`, `abfs://container@account`, `hdfs://host:8020`; and a path, which is not parsed.
_REMOTE = re.compile(rf"({_SCHEME.pattern}{_HOST})(?:/(.*))?", re.DOTALL)
_READ_AHEAD_BYTES = 1024**2
_TOO_FRESH_S = 10  # stores tell whole seconds, by clocks of their own
_TOO_FRESH_HERE_S = 2.0  # a file may change again within the file system's clock tick and keep its stamp


def is_remote(address: str) -> bool:
    return _SCHEME.match(address) is not None and not address.lower().startswith("file://")


def strip_file_scheme(address: str) -> str:
    """`file:///a%20b` → `/a b`; anything else as it is."""
    if not address.lower().startswith("file://"):
        return address
    # Not by urlsplit: a "#" may stand in a file's name.
    path = address[len("file://") :].removeprefix("localhost")
    if not path.startswith("/"):
        raise BadPart(f"{address}: names a file on another machine; write file:///path")
    return unquote(path)


def printable(path: str) -> str:
    """A path for a message: bytes of the file name that are no UTF-8 are spelled out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def is_utf8(path: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in path)


def is_inside(path: str, folder: str) -> bool:
    """Whether canonical `path` is `folder` or below it."""
    return path == folder or path.startswith(folder if folder.endswith("/") else folder + "/")


def is_allowed(path: str, root: str, config: SourceConfig) -> bool:
    """Whether a canonical path lies in `root` or in a folder or address that the settings allow."""
    if is_remote(path):
        return is_inside(path, root) or any(path.startswith(prefix) for prefix in config.allowed_addresses)
    return is_inside(path, root) or any(is_inside(path, _root(folder)) for folder in config.allowed_roots)


@lru_cache(maxsize=64)  # it is asked for each file
def _root(folder: str) -> str:
    try:
        return local_address(folder)
    except BadPart as exc:
        raise SourceError(f"allowed_roots: {exc}") from exc


def local_address(name: str) -> str:
    """The canonical form of what a person writes, as a path with "~" or as `file://…`. Raises BadPart."""
    try:
        return os.path.realpath(Path(strip_file_scheme(name)).expanduser())
    except RuntimeError as exc:
        raise BadPart(f"{name}: names the home of a user who is not known here") from exc
    except ValueError as exc:
        raise BadPart(f"{name!r}: holds a character that no path has") from exc


def is_folder(address: str, name: str) -> bool | None:
    """None for a path where nothing is. Raises BadPart, which calls it `name`, where that cannot be told."""
    try:
        return stat.S_ISDIR(os.stat(address).st_mode)  # noqa: PTH116
    except OSError as exc:
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise BadPart(f"{printable(name)}: {_why(exc)}") from exc


def remote_address(name: str, config: SourceConfig) -> str:
    """The canonical form of `scheme://…`. Raises NotAllowed unless the settings allow it, and BadPart."""
    refuse_secret(name, BadPart)
    if any(part in (".", "..") for part in name.split("/")):
        raise BadPart(f"{name}: has '.' or '..' in its path; write the address without")
    if not any((name + "/").startswith(prefix) for prefix in config.allowed_addresses):
        reason = "is a network address; copy it here, or add its bucket to allowed_addresses"
        raise NotAllowed(f"{name}: {reason}")
    if not _REMOTE.fullmatch(name):
        raise BadPart(f"{name}: names no bucket; write scheme://bucket/path")
    return name.rstrip("/")


def joined(folder: str, name: str) -> str:
    """The path `name` seen from the folder at an address, without "." and "..". It may lead out of it."""
    if not is_remote(folder):
        return posixpath.normpath(posixpath.join(folder, name))
    found = _REMOTE.fullmatch(folder)
    assert found is not None  # `remote_address` saw to it
    return f"{found[1]}/{posixpath.normpath(posixpath.join('/' + (found[2] or ''), name)).lstrip('/')}"


def locate(name: str, base: str, root: str, config: SourceConfig) -> str:
    """As `resolve`, for a file that can be read.

    Raises BadPart also when it is missing, empty, too large or not a regular file. Of a remote file
    this is not looked up.
    """
    address = resolve(name, base, root, config)
    check(address, name, config)
    return address


def resolve(name: str, base: str, root: str, config: SourceConfig) -> str:
    """The address of the file that a document calls `name`, relative to `base`.

    Raises NotAllowed for one outside `root` and everything that the settings allow, BadPart for none.
    """
    if is_remote(name):
        path = name
    elif is_remote(base):
        path = joined(base, name)
    else:
        path = os.path.join(base, strip_file_scheme(name))  # noqa: PTH118 (realpath does not loop)
    if "\0" in path:  # %00 is one too, and so is one of a page's <base>
        raise BadPart(f"{name!r}: has a NUL character in its path")
    if is_remote(name):
        return remote_address(name, config)
    if is_remote(base):
        if not is_allowed(path, root, config):
            raise NotAllowed(f"{name}: leaves {root}; move it inside, or add its bucket to allowed_addresses")
        return path
    path = os.path.realpath(path)
    if not is_allowed(path, root, config):
        raise NotAllowed(f"{name}: leaves {root}; move it inside, or add its folder to allowed_roots")
    return path


def check(address: str, name: str, config: SourceConfig) -> None:
    """Raises BadPart, which calls the file `name`, unless it is a local file that can be read, or remote."""
    if is_remote(address):
        return
    try:
        _check(os.stat(address), printable(name), config.max_file_bytes)  # noqa: PTH116
    except OSError as exc:
        raise BadPart(f"{printable(name)}: {_why(exc)}") from exc


def _check(status: os.stat_result, name: str, max_bytes: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise BadPart(f"{name}: is a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise BadPart(f"{name}: is a pipe, socket or device, not a file")
    if status.st_size > max_bytes:
        raise BadPart(f"{name}: has {status.st_size:,} bytes, more than the {max_bytes:,} allowed")
    if status.st_size == 0:
        raise BadPart(f"{name}: is empty (0 bytes)")


def _why(exc: BaseException) -> str:
    if isinstance(exc, FileNotFoundError):
        return "does not exist"
    if isinstance(exc, PermissionError):
        return "may not be read (permission denied)"
    if isinstance(exc, OSError) and exc.errno == errno.ELOOP:
        return "is a symbolic link, or leads round in a circle of them"
    if isinstance(exc, OSError) and exc.strerror:
        return f"cannot be read ({exc.strerror})"
    return f"cannot be read ({str(exc).splitlines()[0] if str(exc) else type(exc).__name__})"


@contextmanager
def opened(address: str, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    """A binary stream of the file. Follows no link, waits on no pipe. Raises BadPart, and so does reading it.

    With `max_bytes`, a file that is empty or larger is refused before it is read.
    """
    opening = opened_by_pyarrow if is_remote(address) else _opened_here
    try:
        with opening(address, max_bytes) as stream:
            yield stream
    except UNREADABLE as exc:
        raise BadPart(f"{printable(address)}: {_why(exc)}") from exc


@contextmanager
def _opened_here(address: str, max_bytes: int | None) -> Iterator[BinaryIO]:
    if os.path.realpath(address) != address:
        raise BadPart(f"{printable(address)}: leads over a symbolic link")
    # A pipe that nobody writes would block open() for ever without O_NONBLOCK.
    handle = os.open(address, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(handle)
        _check(status, printable(address), status.st_size if max_bytes is None else max_bytes)
    except BaseException:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as stream:
        yield stream


@contextmanager
def opened_by_pyarrow(address: str, max_bytes: int | None) -> Iterator[BinaryIO]:
    """Of any address that pyarrow reads. Raises BadPart for what is no such file, else what pyarrow does."""
    try:
        filesystem, path = open_filesystem(address)
    except SourceError as exc:
        raise BadPart(str(exc)) from exc
    info = _info(filesystem, path)
    if info.type is not arrow_fs.FileType.File:
        raise BadPart(f"{address}: is a folder or does not exist")
    if max_bytes is not None and info.size is not None and info.size > max_bytes:
        raise BadPart(f"{address}: has {info.size:,} bytes, more than the {max_bytes:,} allowed")
    if info.size == 0:
        raise BadPart(f"{address}: is empty (0 bytes)")
    # pyarrow's own stream has no readline.
    with io.BufferedReader(filesystem.open_input_file(path), _READ_AHEAD_BYTES) as buffered:
        yield cast(BinaryIO, buffered)


def open_filesystem(address: str) -> tuple[Any, str]:
    """pyarrow's file system for a remote address, and the path in it. Raises SourceError."""
    found = _REMOTE.fullmatch(refuse_secret(address, SourceError))
    if found is None:
        raise SourceError(f"{address}: names no bucket; write scheme://bucket/path")
    with _named(address):
        filesystem, top = _store(found[1])
    below = found[2] or ""
    return filesystem, top + below if below else top.rstrip("/") or top


def open_uri(uri: str) -> tuple[Any, str]:
    """As `open_filesystem`, for what an operator writes: options behind "?", and %20 for a blank."""
    with _named(refuse_secret(uri, SourceError)):
        filesystem, path = arrow_fs.FileSystem.from_uri(uri)
    return filesystem, path


@lru_cache(maxsize=64)  # S3 is asked for a bucket's region each time
def _store(name: str) -> tuple[Any, str]:
    """The file system of `scheme://bucket`, and what stands before an object's path in it."""
    filesystem, path = arrow_fs.FileSystem.from_uri(f"{name}/x")
    return filesystem, path.removesuffix("x")


@contextmanager
def _named(address: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, *UNREADABLE) as exc:
        raise SourceError(f"{address}: {_why(exc)}; s3://, gs://, hdfs:// and abfs:// can be read") from exc


def remote_is_folder(filesystem: Any, path: str, address: str) -> bool | None:
    """None for an address where nothing is. Raises SourceError where the store does not answer."""
    try:
        kind = _info(filesystem, path).type
    except UNREADABLE as exc:
        raise SourceError(f"{address}: {_why(exc)}") from exc
    return None if kind is arrow_fs.FileType.NotFound else kind is arrow_fs.FileType.Directory


def is_there(address: str) -> bool:
    """Whether anything is at a canonical address. A store that does not answer may hold it still."""
    if not is_remote(address):
        return os.path.lexists(address)
    try:
        filesystem, path = open_filesystem(address)
        return remote_is_folder(filesystem, path, address) is not None
    except SourceError:
        return True


def is_same(one: str, other: str) -> bool:
    """Whether both name one file or folder, be it by a link or another mount."""
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False


def _info(filesystem: Any, path: str) -> arrow_fs.FileInfo:
    """What the store tells of a path. pyarrow's HDFS finds nothing where it cannot ask: not even the root."""
    info = filesystem.get_file_info(path)
    nothing = arrow_fs.FileType.NotFound
    is_hdfs = filesystem.type_name == "hdfs"
    if info.type is nothing and is_hdfs and filesystem.get_file_info("/").type is nothing:
        raise ConnectionError("HDFS does not answer")
    return info


def stamp_of(info: arrow_fs.FileInfo) -> str:
    """What a store tells of a file without reading it: its size, and when it was last written.

    Empty where no time is told, and of a file so fresh that another write could leave the same stamp.
    """
    if info.size is None or info.mtime_ns is None or info.mtime_ns > (time.time() - _TOO_FRESH_S) * 1e9:
        return ""
    return f"{info.size}:{info.mtime_ns}"


def remote_stamp(address: str) -> str:
    """As `stamp_of`, which asks the store; empty where nothing is found."""
    try:
        filesystem, path = open_filesystem(address)
        return stamp_of(filesystem.get_file_info(path))
    except (SourceError, *UNREADABLE):
        return ""


def stamp(address: str) -> str:
    """As `remote_stamp`, of a file here too: its size, times and inode; empty while it is fresh."""
    if is_remote(address):
        return remote_stamp(address)
    try:
        status = os.lstat(address)
    except OSError:
        return ""
    if status.st_ctime > time.time() - _TOO_FRESH_HERE_S:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"


def read_bytes(address: str, max_bytes: int) -> bytes:
    """The whole file. Raises BadPart when it is missing, empty, larger, or not a regular file, and after some
    tries when its storage does not answer."""
    return retried(lambda: _read_bytes(address, max_bytes))


def _read_bytes(address: str, max_bytes: int) -> bytes:
    with opened(address, max_bytes) as stream:
        raw = stream.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise BadPart(f"{printable(address)}: has more than the {max_bytes:,} bytes allowed")
    if not raw:
        raise BadPart(f"{printable(address)}: is empty (0 bytes)")
    return raw


def read_text(address: str, max_bytes: int) -> str:
    """The text of a UTF-8 file (or of one with a byte-order mark). Raises BadText or BadPart."""
    return decode(read_bytes(address, max_bytes), base_name(address))


def base_name(address: str) -> str:
    return posixpath.basename(address.rstrip("/"))


def parent(address: str) -> str:
    return posixpath.dirname(address.rstrip("/"))
