"""Read Qt's compiled resources (.rcc, format 1 to 3): a tree of names, and their contents.

The layout is that of qtbase's qresource.cpp: a header of big-endian words, a tree of fixed-size nodes, names
in UTF-16, contents plain or deflated. Contents under zstd are refused. The file may be hostile.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_HEADER = struct.Struct(">4sIIII")
_NODE = struct.Struct(">IH")  # name, flags
_CHILDREN = struct.Struct(">II")  # count, number of the first
_PLACE = struct.Struct(">HHI")  # country, language, where the contents are
_COMPRESSED, _FOLDER, _ZSTD = 1, 2, 4
_NODE_BYTES = {1: 14, 2: 22, 3: 22}
MAX_FILE_BYTES = 64 * 2**20


class BadResource(ValueError):
    """It is no .rcc file that can be read."""


def read_rcc(data: bytes) -> dict[str, bytes]:
    """Contents by path, without a leading slash. Raises BadResource."""
    try:
        magic, version, tree, contents, names = _HEADER.unpack_from(data)
        if magic != b"qres" or version not in _NODE_BYTES:
            raise BadResource("no Qt resource file of a known version")
        return dict(_Reader(data, version, tree, contents, names).files(0, (), set()))
    except (struct.error, zlib.error, UnicodeDecodeError) as exc:
        raise BadResource(f"a broken Qt resource file ({exc})") from exc


class _Reader:
    def __init__(self, data: bytes, version: int, tree: int, contents: int, names: int) -> None:
        self._data = data
        self._node_bytes = _NODE_BYTES[version]
        self._tree, self._contents, self._names = tree, contents, names

    def files(self, number: int, above: tuple[str, ...], met: set[int]) -> Iterator[tuple[str, bytes]]:
        """Those of a node and below it; a node that was met before makes no tree."""
        if number in met or len(above) > 64:
            raise BadResource("its nodes are no tree")
        met.add(number)
        at = self._tree + number * self._node_bytes
        name, flags = _NODE.unpack_from(self._data, at)
        path = (*above, self._name(name)) if number else ()  # the root has no name
        if flags & _FOLDER:
            count, first = _CHILDREN.unpack_from(self._data, at + _NODE.size)
            for child in range(first, first + count):
                yield from self.files(child, path, met)
        else:
            *_, place = _PLACE.unpack_from(self._data, at + _NODE.size)
            yield "/".join(path), self._content(self._contents + place, flags)

    def _name(self, offset: int) -> str:
        (length,) = struct.unpack_from(">H", self._data, self._names + offset)
        start = self._names + offset + 6  # behind the length and a hash
        return self._slice(start, 2 * length).decode("utf-16-be")

    def _content(self, start: int, flags: int) -> bytes:
        (length,) = struct.unpack_from(">I", self._data, start)
        stored = self._slice(start + 4, length)
        if flags & _ZSTD:
            raise BadResource("its contents are compressed with zstd")
        if not flags & _COMPRESSED:
            return stored
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(stored[4:], MAX_FILE_BYTES)  # behind its length, which is not trusted
        if not unpacking.eof:
            raise BadResource("a file of it is cut off or too large")
        return content

    def _slice(self, start: int, length: int) -> bytes:
        found = self._data[start : start + length]
        if len(found) < length:
            raise BadResource("it is cut off")
        return found
