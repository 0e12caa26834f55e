"""How a rerun knows that nothing changed: stamps first, hashes where they differ."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipelines.ingest.hashing import document_digest, document_stamp, hash_file, stamp_file
from pipelines.ingest.sources import Item


@pytest.fixture
def settled(tmp_path: Path) -> Path:
    """A file that was last changed long enough ago for its stamp to be trusted."""
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    time.sleep(2.1)
    return path


def item(*inputs: Path) -> Item:
    return Item("picture", "a", str(inputs[0]), "/", "/", inputs=tuple(map(str, inputs)))


def test_a_fresh_file_has_no_stamp_but_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    assert stamp_file(str(path)) == ""
    assert document_stamp(item(path), [str(path)]) == ""
    assert len(hash_file(str(path))) == 64


def test_neither_a_missing_file_nor_one_whose_store_does_not_answer_has_a_stamp(tmp_path: Path) -> None:
    assert stamp_file(str(tmp_path / "none.png")) == ""
    assert stamp_file("nowhere://bucket/a.png") == ""


def test_a_remote_file_is_stamped_by_its_size_and_time_once_they_are_some_seconds_old(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    far = f"fsspec+file://{path}"
    assert stamp_file(far) == ""
    os.utime(path, (1_000, 1_000))
    assert stamp_file(far) == "3:1000000000000"
    assert stamp_file(f"{far}.gone") == ""


def test_an_edit_that_keeps_size_and_times_changes_the_stamp(settled: Path) -> None:
    before, status = stamp_file(str(settled)), settled.stat()
    assert before
    settled.write_bytes(b"two")
    os.utime(settled, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert settled.stat().st_mtime_ns == status.st_mtime_ns
    time.sleep(2.1)
    assert stamp_file(str(settled)) not in ("", before)


def test_a_document_is_stamped_only_when_all_its_files_are(settled: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "b.txt"
    fresh.write_bytes(b"text")
    assert document_stamp(item(settled), [str(settled)])
    assert document_stamp(item(settled, fresh), [str(settled), str(fresh)]) == ""


def test_a_file_above_the_limit_is_known_by_its_size_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    hashes = []
    for size in (2**40, 2**40, 2**40 + 1):  # sparse: to read one takes a quarter of an hour
        with path.open("wb") as file:
            file.truncate(size)
        hashes.append(hash_file(str(path), 2**20))
    assert hashes[0] == hashes[1] != hashes[2]
    assert "has 1,099,511,627,776 bytes, more than the 1,048,576 allowed" in hashes[0]
    assert hash_file(f"fsspec+file://{path}", 2**20).endswith("more than the 1,048,576 allowed")
    path.write_bytes(b"one")
    assert len(hash_file(str(path), 3)) == 64


def test_what_is_known_of_a_file_is_not_read_again(settled: Path) -> None:
    read = document_digest(item(settled), [str(settled)])
    known = document_digest(item(settled), [str(settled)], {str(settled): hash_file(str(settled))})
    other = document_digest(item(settled), [str(settled)], {str(settled): "0" * 64})
    assert read == known != other
