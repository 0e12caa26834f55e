"""Who writes an index is noted as long as the lock is held, and who looks disturbs no writer."""

from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path
from typing import NoReturn

import pytest

from pipelines.core import writer
from pipelines.core.index import Index, IndexConfig
from pipelines.core.writer import FILE, Writer, writer_of


def hold_lock(directory: Path, held: object, done: object) -> None:
    with Index(directory, IndexConfig()).write_lock():
        held.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_the_holder_of_the_lock_is_told_until_it_gives_it_back(tmp_path: Path) -> None:
    assert writer_of(tmp_path) is None
    with Index(tmp_path, IndexConfig()).write_lock():
        found = writer_of(tmp_path)
        assert found is not None
        assert (found.pid, found.running) == (os.getpid(), True)
    assert writer_of(tmp_path) is None


def test_one_that_fails_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Index(tmp_path, IndexConfig()).write_lock():
        raise KeyboardInterrupt
    assert (tmp_path / "writer.lock").exists()
    assert writer_of(tmp_path) is None


def test_a_disk_that_takes_no_note_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: object, **options: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "replace_file", full)
    monkeypatch.setattr(Path, "unlink", full)
    with Index(tmp_path, IndexConfig()).write_lock():
        pass
    assert "writer.json cannot be written, so `mmrag status` will not tell who writes" in caplog.text


def test_another_process_is_told_and_that_it_was_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold_lock, args=(tmp_path, held, done))
    other.start()
    assert held.wait(60)
    found = writer_of(tmp_path)
    assert found is not None
    assert (found.pid, found.running) == (other.pid, True)
    other.kill()
    other.join(60)
    assert writer_of(tmp_path) == found
    assert found.running is False
    with Index(tmp_path, IndexConfig()).write_lock():
        assert writer_of(tmp_path) != found
    assert writer_of(tmp_path) is None


def test_who_looks_does_not_touch_the_lock(tmp_path: Path) -> None:
    with Index(tmp_path, IndexConfig()).write_lock():
        (tmp_path / "writer.lock").rename(tmp_path / "aside")
        assert writer_of(tmp_path) is not None
        assert not (tmp_path / "writer.lock").exists()


def test_whether_a_process_elsewhere_still_runs_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number may be another's here."""
    here = Writer.current()
    assert here.running is True
    monkeypatch.setattr(writer.socket, "gethostname", lambda: "elsewhere")
    assert here.running is None
    monkeypatch.undo()
    monkeypatch.setattr(writer, "_pids", lambda: "pid:[1]")  # a container's, on the same host
    assert here.running is None


def test_a_system_without_numberings_of_their_own_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PIDS", tmp_path / "none")
    assert Writer.current().pids == ""
    assert Writer.current().running is True


@pytest.mark.parametrize(
    "left", [b"", b"\0" * 64, b'{"host": "a', b"null", b"[7]", b'{"host": "a"}', b"\xff"]
)
def test_a_damaged_note_is_none(tmp_path: Path, left: bytes) -> None:
    """As a power cut leaves it."""
    (tmp_path / FILE).write_bytes(left)
    assert writer_of(tmp_path) is None
