"""A WebDataset shard as a source: members of one name, up to the first dot of its last part, are a document.

Of `0001.jpg`, `0001.caption.txt` and `0001.json` the pictures are read in place when they are loaded, texts
and JSON (as beside a picture, see `rows`) here. Members of other forms are left alone, and hidden ones.
An id is the name behind those of the shard and its folder: `train/00000.tar/0001`. Nothing is unpacked; a
name that would leave a folder, a link and a device are refused all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from pipelines.core.errors import BadPart, SourceError
from pipelines.core.plain import storable
from pipelines.ingest.sources import files, inside, rows, tar
from pipelines.ingest.sources.folder import PICTURES, TEXTS, document_id, suffix
from pipelines.ingest.sources.records import Item, Rejected, SourceConfig
from pipelines.ingest.sources.text import decode

_MAX_MEMBERS = 1000  # of one document
_SHOWN_CHARS = 200


def list_tar(address: str, config: SourceConfig) -> Iterator[Item | Rejected]:
    """The documents of an uncompressed shard. Raises SourceError when it cannot be read."""
    try:
        with files.opened(address) as stream:
            yield from _Shard(stream, address, config).documents()
    except BadPart as exc:
        raise SourceError(str(exc)) from exc


@dataclass(slots=True)
class _Sample:
    """The members of one document, as far as they were met."""

    key: str
    row: rows.Row = field(default_factory=rows.Row)
    texts: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    is_untold: bool = False  # whose it is, and under which id, stands in a JSON that cannot be read
    members: int = 0


class _Shard:
    def __init__(self, stream: BinaryIO, address: str, config: SourceConfig) -> None:
        self._stream, self._address, self._config = stream, address, config
        self._name = files.base_name(address)
        self._id = document_id(files.parent(address), self._name)

    def documents(self) -> Iterator[Item | Rejected]:
        sample: _Sample | None = None
        for member in tar.members(self._stream):
            if isinstance(member, tar.Damage):
                yield self._rejected("", "", f"at byte {member.offset:,}: {member.reason}")
                continue
            try:
                name = _checked(member.name)
            except BadPart as exc:
                yield self._rejected(_shown(member.name), _shown(member.name), str(exc))
                continue
            key = _key(name)
            if member.kind == "folder" or not key:
                continue
            if sample is None or sample.key != key:
                if sample is not None:
                    yield from self._finished(sample)
                sample = _Sample(key)
            self._add(sample, member, name)
        if sample is not None:
            yield from self._finished(sample)

    def _add(self, sample: _Sample, member: tar.Member, name: str) -> None:
        sample.members += 1
        form = suffix(name)
        if sample.members > _MAX_MEMBERS:
            sample.is_untold |= form == ".json"
            if sample.members == _MAX_MEMBERS + 1:
                sample.refused.append((name, f"is one of more than {_MAX_MEMBERS:,} of this document"))
            return
        try:
            if member.kind != "file":
                what = "a link" if member.kind == "link" else "no plain file"
                raise BadPart(f"is {what}; put the file itself into the archive")
            if form in PICTURES:
                _check_size(member, self._config.max_file_bytes)
                sample.pictures.append(inside.span(self._address, member.offset, member.size))
            elif form in TEXTS:
                room = self._config.max_row_bytes - sum(map(len, sample.texts))
                sample.texts.append(self._text(member, room))
            elif form == ".json":
                sample.row, wrong = rows.read_side_car(self._text(member, self._config.max_row_bytes))
                if wrong:
                    sample.refused.append((name, wrong))
        except BadPart as exc:
            sample.refused.append((name, str(exc)))
            sample.is_untold |= form == ".json"

    def _text(self, member: tar.Member, max_bytes: int) -> str:
        _check_size(member, max_bytes)
        self._stream.seek(member.offset)
        return decode(self._stream.read(member.size), "its text")

    def _finished(self, sample: _Sample) -> Iterator[Item | Rejected]:
        identity = sample.row.id or f"{self._id}/{sample.key}"
        for name, reason in sample.refused:
            yield self._rejected(identity, _shown(name), reason)
        if sample.is_untold:
            return
        text = "\n\n".join(text for text in (sample.row.text, *sample.texts) if text.strip())
        row = replace(sample.row, id=identity, text=text)
        try:
            if not sample.pictures and not row.text and not row.caption:
                if sample.refused:
                    return  # and that is why
                raise BadPart("holds neither a picture nor text that is read")
            rows.check_id(identity)
            yield rows.row_item(row, self._address, tuple(sample.pictures), self._config)
        except BadPart as exc:
            yield self._rejected(_shown(identity), _shown(sample.key), str(exc))

    def _rejected(self, identity: str, member: str, reason: str) -> Rejected:
        where = f"{self._name}/{member}" if member else self._name
        source = f"{self._address}/{member}" if member else self._address
        return Rejected(identity or self._id, source, "list", f"{where}: {reason}")


def _checked(name: str) -> str:
    """The name without a leading "./". Raises BadPart for one that no folder could hold."""
    parts = name.removeprefix("./").split("/")
    if not files.is_utf8(name):
        raise BadPart("its name is not UTF-8; rename it")
    if name.startswith("/") or ".." in parts:
        raise BadPart("its name leads out of the archive; pack it with relative names")
    return "/".join(part for part in parts if part not in ("", "."))


def _key(name: str) -> str:
    """`a/0001` of `a/0001.left.png`; empty for a hidden name."""
    parts = name.split("/")
    if any(part.startswith(".") for part in parts):
        return ""
    return "/".join((*parts[:-1], parts[-1].partition(".")[0]))


def _check_size(member: tar.Member, max_bytes: int) -> None:
    if member.size > max_bytes:
        raise BadPart(f"has {member.size:,} bytes, more than the {max_bytes:,} allowed")
    if member.size == 0:
        raise BadPart("is empty (0 bytes)")


def _shown(name: str) -> str:
    return storable(files.printable(name)[:_SHOWN_CHARS])
