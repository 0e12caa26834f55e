"""The pictures that a row names: files inside one folder, or data URIs. No link leads out of the folder. And
the one that a question's asker names, which may be any file.

Fetches nothing from a network. Knows nothing of rows, turns or pixels.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from pipelines.core import images
from pipelines.core.characters import unfit
from pipelines.core.errors import BadImage, BadPart

_DATA_URI = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
_ADDRESS = re.compile(r"data:|[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# A pipe that nobody writes would block open() for ever without O_NONBLOCK.
_NO_WAIT = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


class MissingPictures(BadPart):
    """Files that are not there; `names` are the row's words for them."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"there is no picture {', '.join(map(repr, names))}")
        self.names = tuple(names)


def find_pictures(addresses: Sequence[str], root: str) -> tuple[Path | bytes, ...]:
    """A canonical path inside `root` (canonical itself), or the decoded bytes, for each.

    Raises MissingPictures, or BadPart for what is no file, leaves the root, or is an address.
    """
    found: list[Path | bytes] = []
    missing: list[str] = []
    for address in addresses:
        if _DATA_URI.match(address):
            found.append(_decoded(address))
        elif (path := _located(address, root)) is not None:
            found.append(path)
        else:
            missing.append(address[:200])
    if missing:
        raise MissingPictures(missing)
    return tuple(found)


def _decoded(uri: str) -> bytes:
    start = uri.index(",") + 1
    if (len(uri) - start) * 3 // 4 > images.MAX_BYTES:
        raise BadPart(f"a data URI of more than the {images.MAX_BYTES:,} bytes allowed")
    try:
        return base64.b64decode(uri[start:], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadPart(f"a data URI is not base64: {exc}") from exc


def _located(name: str, root: str) -> Path | None:
    """The picture's file without links, or None where there is none. Raises BadPart for one out of bounds."""
    shown = repr(name[:200])
    if _ADDRESS.match(name):
        raise BadPart(f"picture {shown} is an address; wanted a file inside the image root, or a data URI")
    path = os.path.realpath(Path(root) / clean(name, "image"))
    if os.path.commonpath((root, path)) != root:
        raise BadPart(f"picture {shown} leaves the image root; move it inside, or set image_root")
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise BadPart(f"picture {shown} cannot be read ({exc.strerror})") from exc
    if not stat.S_ISREG(status.st_mode):
        raise BadPart(f"picture {shown} is not a file")
    if not 0 < status.st_size <= images.MAX_BYTES:
        raise BadPart(f"picture {shown} has {status.st_size:,} bytes; wanted 1 to {images.MAX_BYTES:,}")
    return Path(path)


def read_picture(source: Path | bytes) -> bytes:
    """The bytes of a found picture. Raises BadPart when the file is gone, too large, or now a link."""
    if isinstance(source, bytes):
        return source
    try:
        handle = os.open(source, _NO_WAIT)
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BadPart(f"{source.name}: is not a file")
            data = stream.read(images.MAX_BYTES + 1)
    except OSError as exc:
        raise BadPart(f"{source.name}: cannot be read ({exc.strerror})") from exc
    if len(data) > images.MAX_BYTES:
        raise BadImage(f"{source.name}: has more than the {images.MAX_BYTES:,} bytes allowed")
    return data


def read_named(path: Path | str) -> bytes:
    """The bytes of a file that the user of this process names. Raises BadImage where it cannot be read, or is
    larger than any picture may be."""
    shown = str(path)[:200]
    try:
        with Path(path).open("rb") as file:
            data = file.read(images.MAX_BYTES + 1)
    except OSError as exc:
        raise BadImage(f"{shown} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # a null character
        raise BadImage(f"{shown!r} cannot be read: {exc}") from exc
    if len(data) > images.MAX_BYTES:
        raise BadImage(f"{shown}: has more than the {images.MAX_BYTES:,} bytes allowed")
    return data


def clean(text: str, what: str) -> str:
    """The text. Raises BadPart where it holds what no file name and no tokenizer takes."""
    if fault := unfit(text):
        raise BadPart(f"{what}: {fault}")
    return text
