"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fakes import files_of_at_most

from pipelines.core.errors import MmragError
from pipelines.core.files import disk_errors, replace_file, replaced


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_takes_the_place_of_another(tmp_path: Path, durable: bool) -> None:
    for content in ("old\n", "new 红\r\n"):
        replace_file(tmp_path / "a.json", content, durable=durable)
        assert (tmp_path / "a.json").read_bytes() == content.encode()
    assert names(tmp_path) == ["a.json"]


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    replace_file(tmp_path / "a", b"old")
    with replaced(tmp_path / "a") as beside:
        beside.write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert beside.name.startswith(".")  # what reads a folder's data sets leaves these out
    assert (tmp_path / "a").read_bytes() == b"new"


def test_after_an_error_the_old_file_stands_and_nothing_else(tmp_path: Path) -> None:
    def cut_short(file: Path) -> None:
        with replaced(file) as beside:
            beside.write_bytes(b"ne")
            raise KeyboardInterrupt

    replace_file(tmp_path / "a", b"old")
    with pytest.raises(KeyboardInterrupt):
        cut_short(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_two_that_write_the_same_file_at_once_do_not_meet(tmp_path: Path) -> None:
    """As two workers of equal pids, each in a container of its own."""
    with replaced(tmp_path / "a") as one:
        one.write_bytes(b"same")
        with replaced(tmp_path / "a") as other:
            other.write_bytes(b"same")
    assert (tmp_path / "a").read_bytes() == b"same"
    assert names(tmp_path) == ["a"]


def test_a_disk_without_room_is_told_by_the_file_and_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(path, b"old")
    wanted = rf"^{path}: File too large; make room there, and run the same command again$"
    with pytest.raises(MmragError, match=wanted), files_of_at_most(1000), disk_errors(tmp_path):
        replace_file(path, b"new" * 1000)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device; make room there"),
        (errno.EROFS, "Read-only file system; let this user write there"),
        (errno.EACCES, "Permission denied; let this user write there"),
        (errno.EIO, "Input/output error; look after the disk"),
    ],
)
def test_what_a_disk_refuses_is_told_by_its_place_where_no_file_is_named(number: int, advice: str) -> None:
    with pytest.raises(MmragError, match=f"^/kb: {advice}, and run"), disk_errors(Path("/kb")):
        raise OSError(number, "as the C library says it")


def test_what_is_no_fault_of_a_disk_stays_as_it_is() -> None:
    with pytest.raises(FileNotFoundError), disk_errors(Path("/kb")):
        raise FileNotFoundError(errno.ENOENT, "none")
