"""The members of a tar archive: names, kinds, and where their bytes lie, in one pass. Knows no documents.

Reads ustar, GNU and PAX headers by itself, because the standard library's reader takes quadratic time and
raises what it likes on hostile ones. A damaged header costs its member; the next sound one is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from pipelines.core.errors import BadPart

_BLOCK = 512
_MAGIC, _MAGIC_OFFSET = b"ustar", 257  # of every form but the oldest
_SEARCHED_BYTES = 2048 * _BLOCK  # at once, for the next header
_MAX_EXTENDED_BYTES = 64 * 1024  # of a header that carries a long name
_OCTAL = re.compile(rb" *([0-7]{1,12})[ \0]*")
_DIGITS = re.compile(rb"[0-9]{1,12}")
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes `offset` to `offset + size` of the archive. A name that is no UTF-8 holds surrogates."""

    name: str
    kind: Literal["file", "folder", "link", "other"]
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Why the member whose header stands at byte `offset` cannot be told."""

    offset: int
    reason: str


def members(stream: BinaryIO) -> Iterator[Member | Damage]:
    """Every member, in order. An empty block is the end, unless a header follows: then it was wiped out, or
    archives were joined.
    """
    length = stream.seek(0, 2)
    position = 0
    extended: dict[str, bytes] = {}  # of the member that follows
    while position + _BLOCK <= length:
        start = position
        stream.seek(start)
        block = stream.read(_BLOCK)
        if not block.strip(b"\0"):
            position = _next_header(stream, start + _BLOCK, length)
            if position < length:
                yield Damage(start, "is empty, but the archive goes on")
            extended = {}
            continue
        try:
            member, flag = _member(block, start + _BLOCK, extended)
            if member.offset + member.size > length:
                raise BadPart(f"says {member.size:,} bytes, but the file ends before")
            position = member.offset + -(-member.size // _BLOCK) * _BLOCK
        except BadPart as exc:
            yield Damage(start, str(exc))
            position = _next_header(stream, start + _BLOCK, length)
            extended = {}
            continue
        if flag in b"xLKg":
            try:
                extended |= _extended(stream, member, flag)
            except BadPart as exc:
                yield Damage(start, str(exc))
                extended = {"lost": b""}
            continue
        if "lost" not in extended:  # else its name is not known
            yield member
        extended = {}
    if position < length:
        yield Damage(position, "the file ends in the middle of a header")


def _member(block: bytes, offset: int, extended: dict[str, bytes]) -> tuple[Member, bytes]:
    if not _is_sound(block):
        raise BadPart("is no tar header, or a damaged one")
    flag = block[156:157]
    name = block[:100].split(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].split(b"\0")[0] + b"/" + name
    name = extended.get("path", name)
    size = _number(block[124:136])
    if "size" in extended:
        if not _DIGITS.fullmatch(extended["size"]):
            raise BadPart("its size is no number")
        size = int(extended["size"])
    kind: Literal["file", "folder", "link", "other"] = "other"
    if flag == b"5" or (flag in b"0\0" and name.endswith(b"/")):
        kind = "folder"
    elif flag in b"12":
        kind, size = "link", 0  # some writers say the size of its target
    elif flag in b"07\0" and "sparse" not in extended:
        kind = "file"
    return Member(name.decode("utf-8", "surrogateescape"), kind, offset, size), flag


def _is_sound(block: bytes) -> bool:
    said = _OCTAL.fullmatch(block[_CHECKSUM])
    return said is not None and int(said[1], 8) == sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's binary numbers, for what octal digits cannot say
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field)
    if octal is None:
        raise BadPart("its size is no number")
    return int(octal[1], 8)


def _extended(stream: BinaryIO, member: Member, flag: bytes) -> dict[str, bytes]:
    """What this header says of the next member: its `path` and `size`, and whether it is `sparse`."""
    if flag in b"Kg":  # a link's target; what holds for all members, which has no names
        return {}
    if member.size > _MAX_EXTENDED_BYTES:
        raise BadPart(f"has a name or attributes of {member.size:,} bytes")
    stream.seek(member.offset)
    data = stream.read(member.size)
    if flag == b"L":
        return {"path": data.split(b"\0")[0]}
    found: dict[str, bytes] = {}
    start = 0
    while start < len(data):  # records of "length key=value\n", the length that of the whole record
        digits, _, _ = data[start : start + 20].partition(b" ")
        size = int(digits) if _DIGITS.fullmatch(digits) else 0
        key, separator, value = data[start + len(digits) + 1 : start + size].partition(b"=")
        if not separator or not value.endswith(b"\n"):
            raise BadPart("has broken attributes (PAX)")
        if key in (b"path", b"size"):
            found[key.decode()] = value[:-1]
        elif key.startswith(b"GNU.sparse"):
            found["sparse"] = b""
        start += size
    return found


def _next_header(stream: BinaryIO, position: int, length: int) -> int:
    """Where the next sound header begins, or the end."""
    while position + _BLOCK <= length:
        stream.seek(position)
        blocks = stream.read(_SEARCHED_BYTES)
        at = blocks.find(_MAGIC)
        while at >= 0:
            start = at - _MAGIC_OFFSET
            block = blocks[start : start + _BLOCK] if start % _BLOCK == 0 else b""
            if len(block) == _BLOCK and _is_sound(block):
                return position + start
            at = blocks.find(_MAGIC, (start // _BLOCK + 1) * _BLOCK + _MAGIC_OFFSET)
        position += _SEARCHED_BYTES
    return length
