"""Packages of public registries: an archive of a fixed version, fetched once and checked, and its files.

Fetched by the registry's own client, so that mirrors and proxies hold. An archive is nobody's word: another
SHA-256 than the one written here is refused, and so are names that lead out, too many files and too many
bytes. A symbolic link to a file that is unpacked beside it becomes that file; other links, and devices, are
passed over. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import posixpath
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Registry = Literal["npm", "pypi", "debian"]
_Member = tuple[str, int, Callable[[], bytes] | str]
"""Name, size, and how to read it, or what it is a symbolic link to."""

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 64 * 2**20
MAX_BYTES = 4 * 2**30
"""Of all files of an archive, unpacked."""
_MAX_LINKS = 8
"""From a link to a link and on."""
_SUFFIX: dict[Registry, str] = {"npm": ".tgz", "pypi": ".whl", "debian": ".deb"}


class PackageError(Exception):
    """A package could not be fetched, is not the one that was named, or is no archive to unpack."""


@dataclass(frozen=True, slots=True)
class Package:
    registry: Registry
    name: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        name = self.name.removeprefix("@").replace("/", "-")
        return f"{name}-{self.version}{_SUFFIX[self.registry]}"

    @property
    def command(self) -> list[str]:
        """Puts the archive, and nothing else, into the working directory."""
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        return {
            "npm": ["npm", "pack", "--silent", f"{self.name}@{self.version}"],
            "pypi": [*pip, f"{self.name}=={self.version}"],
            "debian": ["apt-get", "download", "-q", f"{self.name}={self.version}"],
        }[self.registry]


def fetch(package: Package, downloads: Path) -> Path:
    """The archive in `downloads`. Raises PackageError."""
    archive = downloads / package.file_name
    if not archive.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        print(f"fetching {package.name} {package.version} from {package.registry}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=downloads) as fresh:
            _run(package, Path(fresh))
            [found] = Path(fresh).iterdir()
            _check(package, found)
            found.replace(archive)
    _check(package, archive)
    return archive


def _run(package: Package, folder: Path) -> None:
    client, *_ = package.command
    if shutil.which(client) is None:
        raise PackageError(f"{client} is not here; {package.name} comes from {package.registry}")
    if subprocess.run(package.command, cwd=folder, stdout=subprocess.DEVNULL).returncode:
        raise PackageError(
            f"{' '.join(package.command)} failed: is there a network, does the registry have this version"
            + (", and has `apt-get update` been run?" if package.registry == "debian" else "?")
        )


def _check(package: Package, archive: Path) -> None:
    with archive.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != package.sha256:
        raise PackageError(f"{archive}: has SHA-256 {found}; wanted {package.sha256}")


def members(
    archive: Path, wanted: Callable[[str], bool], links: dict[str, str] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each file of a .tgz, .whl or .deb that is wanted; `links` gets the symbolic links
    with the names that they lead to. Raises PackageError."""
    total = 0
    try:
        for number, (raw_name, size, content) in enumerate(_files(archive), start=1):
            name = _inside(raw_name, archive)
            total += size
            if number > MAX_MEMBERS or total > MAX_BYTES:
                raise PackageError(f"{archive}: has more files or bytes than are unpacked")
            if not wanted(name):
                continue
            if size > MAX_MEMBER_BYTES:
                raise PackageError(f"{archive}: {name} has more than {MAX_MEMBER_BYTES:,} bytes")
            if not isinstance(content, str):
                yield name, content()
            elif links is not None:
                links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), content))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError) as exc:
        raise PackageError(f"{archive}: cannot be read ({exc})") from exc


def unpack(archive: Path, below: str, folder: Path) -> Path:
    """The files below `below`, written into `folder`, which is there whole or not at all."""
    if folder.is_dir():
        return folder
    beside = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    written: dict[str, Path] = {}
    links: dict[str, str] = {}

    def place(name: str) -> Path:
        written[name] = beside / name.removeprefix(f"{below}/")
        written[name].parent.mkdir(parents=True, exist_ok=True)
        return written[name]

    for name, data in members(archive, lambda name: name.startswith(f"{below}/"), links):
        place(name).write_bytes(data)
    for name, target in links.items():
        for _ in range(_MAX_LINKS):
            target = links.get(target, target)
        if target in written and name not in written:
            place(name).hardlink_to(written[target])
    if not written:
        raise PackageError(f"{archive}: has nothing below {below}")
    return beside.rename(folder)


def _files(archive: Path) -> Iterator[_Member]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as found:
            for info in found.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: found.read(info)
    elif archive.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive.absolute())]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking:
            try:
                with tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
                    yield from _of_tar(tar)
            finally:
                unpacking.kill()  # one that has ended is left alone
    else:
        with tarfile.open(archive, mode="r|gz") as tar:
            yield from _of_tar(tar)


def _of_tar(tar: tarfile.TarFile) -> Iterator[_Member]:
    for member in tar:
        if member.isreg():
            yield member.name, member.size, lambda member=member: tar.extractfile(member).read()
        elif member.issym():
            yield member.name, 0, member.linkname


def _inside(name: str, archive: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise PackageError(f"{archive}: {name!r} leads out of it")
    return path.as_posix()
