"""Walk a folder, here or in an object store, one directory at a time. Knows nothing of forms.

Hidden names are skipped. Every directory is walked once: a link to a directory inside the root is
not followed, as its files are listed where they lie; one that leaves the root is refused, unless
the settings allow its target.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pyarrow import fs as arrow_fs

from pipelines.core.errors import BadPart, SourceError
from pipelines.ingest.sources import files
from pipelines.ingest.sources.records import SourceConfig


@dataclass(frozen=True, slots=True)
class Directory:
    """The names of one directory's files, sorted; its address, and its path below the root ("" at it)."""

    below: str
    address: str
    names: tuple[str, ...]
    links: frozenset[str] = frozenset()
    """Names that are links, pipes or anything else than a plain file: `address_of` looks at them."""
    stamps: Mapping[str, str] = field(default_factory=dict)
    """By name, what an object store said of it (`files.stamp_of`)."""

    def path_of(self, name: str) -> str:
        return f"{self.below}/{name}" if self.below else name


@dataclass(frozen=True, slots=True)
class Refused:
    """A name that cannot be walked into, and why."""

    path: str
    address: str
    reason: str


def address_of(directory: Directory, name: str, root: str, config: SourceConfig) -> str:
    """The canonical address of one of its files. Raises BadPart for a link out or to nothing, a pipe…"""
    if not files.is_utf8(name):
        raise BadPart(f"{files.printable(name)}: its name is not UTF-8; rename it")
    if name in directory.links:
        return files.locate(name, directory.address, root, config)
    return f"{directory.address.rstrip('/')}/{name}"


def walk(root: str, config: SourceConfig) -> Iterator[Directory | Refused]:
    """Every directory at or below the canonical `root`, in sorted order."""
    if files.is_remote(root):
        yield from _walk_remote(root)
        return
    seen: set[tuple[int, int]] = set()
    pending = [("", root)]
    while pending:
        below, address = pending.pop()
        try:
            status = os.stat(address)  # noqa: PTH116 (a plain string, many times)
            entries = sorted(_entries(address))
        except OSError as exc:
            if address == root:
                raise SourceError(f"{root}: {exc.strerror}; is it there, and may it be read?") from exc
            yield Refused(below, address, f"{files.printable(below)}: cannot be listed ({exc.strerror})")
            continue
        # Only a loop of links over allowed roots can come back here.
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        here = Directory(
            below,
            address,
            tuple(name for name, kind in entries if kind != "folder"),
            frozenset(name for name, kind in entries if kind == "other"),
        )
        folders, refused = _folders(here, entries, root, config)
        yield from refused
        yield Directory(below, address, tuple(n for n in here.names if n not in folders), here.links)
        pending.extend(
            (here.path_of(name), folders[name]) for name in sorted(folders, reverse=True) if folders[name]
        )


def _entries(address: str) -> Iterator[tuple[str, str]]:
    with os.scandir(address) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                if entry.is_dir(follow_symlinks=False):
                    yield entry.name, "folder"
                else:
                    yield entry.name, "file" if entry.is_file(follow_symlinks=False) else "other"


def _folders(
    here: Directory, entries: list[tuple[str, str]], root: str, config: SourceConfig
) -> tuple[dict[str, str], list[Refused]]:
    """The directories below this one: name to address, "" for one that is not walked from here."""
    folders: dict[str, str] = {}
    refused: list[Refused] = []
    for name, kind in entries:
        path = f"{here.address.rstrip('/')}/{name}"
        if kind == "folder":
            folders[name] = path
        elif kind == "other" and _is_directory(path):
            target = os.path.realpath(path)
            folders[name] = ""
            if not files.is_allowed(target, root, config):
                reason = f"{here.path_of(name)}: links out of {root}; add its target to allowed_roots"
                refused.append(Refused(here.path_of(name), path, reason))
            elif not files.is_inside(target, root):
                folders[name] = target
    return folders, refused


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def _walk_remote(root: str) -> Iterator[Directory]:
    filesystem, top = files.open_filesystem(root)
    yield from walk_filesystem(filesystem, top, root)


def walk_filesystem(filesystem: arrow_fs.FileSystem, top: str, root: str) -> Iterator[Directory]:
    """Walk one of pyarrow's file systems from path `top`, whose address is `root`."""
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            infos = filesystem.get_file_info(arrow_fs.FileSelector(f"{top}/{below}" if below else top))
        except OSError as exc:
            raise SourceError(f"{root}/{below}: cannot be listed ({str(exc).splitlines()[0]})") from exc
        shown = sorted((one for one in infos if not one.base_name.startswith(".")), key=lambda o: o.base_name)
        address = f"{root}/{below}" if below else root
        held = [one for one in shown if one.type is arrow_fs.FileType.File]
        stamps = {one.base_name: files.stamp_of(one) for one in held}
        here = Directory(below, address, tuple(stamps), stamps=stamps)
        yield here
        pending.extend(
            here.path_of(one.base_name) for one in reversed(shown) if one.type is arrow_fs.FileType.Directory
        )
