"""Reading bytes: what is refused, in a line that names the file; and object stores."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as arrow_fs
from pydantic import ValidationError

from pipelines.core.errors import BadPart, SourceError
from pipelines.ingest.sources import UNAVAILABLE, SourceConfig, files, inside, list_items, opened, read_bytes
from pipelines.ingest.sources.files import locate, opened_by_pyarrow
from pipelines.ingest.sources.walk import walk_filesystem


def test_a_file_up_to_the_bound_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(str(tmp_path / "a"), 5) == b"12345"
    with pytest.raises(BadPart, match="has 5 bytes, more than the 4 allowed"):
        read_bytes(str(tmp_path / "a"), 4)


class Flaky:
    """`os.open` that fails so often with this error, and then opens."""

    def __init__(self, error: OSError, times: int) -> None:
        self.error, self.left, self.original = error, times, os.open

    def __call__(self, *args: Any, **how: Any) -> int:
        if self.left:
            self.left -= 1
            raise self.error
        return self.original(*args, **how)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(files.time, "sleep", waits.append)
    return waits


PASSING = [
    *(OSError(code, os.strerror(code)) for code in (errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT)),
    *(OSError(code, os.strerror(code)) for code in (errno.ECONNRESET, errno.EHOSTUNREACH)),
    TimeoutError("timed out"),
    OSError("When reading 'b': AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 28"),
    OSError("When reading 'b': AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No body"),
]


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_storage_that_answers_again_costs_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], error: OSError
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files.os, "open", Flaky(error, 2))
    assert read_bytes(str(tmp_path / "a"), 5) == b"12345"
    assert waits == [0.5, 2.0]


def test_storage_that_does_not_answer_is_given_up_and_told_apart_from_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files.os, "open", Flaky(PASSING[0], 99))
    with pytest.raises(BadPart, match="Input/output error") as caught:
        read_bytes(f"{tmp_path}/a#bytes=1+2", 5)
    assert files.stage_of(caught.value, "read") == UNAVAILABLE
    assert waits == [0.5, 2.0, 8.0]


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(code, os.strerror(code)) for code in (errno.ENOENT, errno.EACCES, errno.ELOOP)),
        OSError("When getting 'b': AWS Error ACCESS_DENIED during HeadObject operation: No response body."),
        OSError("When getting 'b': AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No body"),
        OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_file_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], error: OSError
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files.os, "open", Flaky(error, 1))
    with pytest.raises(BadPart) as caught:
        read_bytes(str(tmp_path / "a"), 5)
    assert files.stage_of(caught.value, "read") == "read"
    assert waits == []


def test_a_parquet_file_that_answers_again_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    pictures = pa.array([{"bytes": b"one", "path": None}, {"bytes": b"two", "path": None}])
    pq.write_table(pa.table({"id": ["a", "b"], "image": pictures}), tmp_path / "x.parquet", row_group_size=1)
    failures = [OSError(errno.ESTALE, "Stale file handle")]
    original = pq.ParquetFile.iter_batches

    def stale(*args: Any, **how: Any) -> Iterator[Any]:
        if failures:
            raise failures.pop()
        yield from original(*args, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", stale)
    address = str(tmp_path / "x.parquet")
    assert [read_bytes(inside.cell(address, row, 0), 9) for row in (1, 2)] == [b"one", b"two"]
    assert waits == [0.5]


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dirlink").symlink_to("dir")
    (tmp_path / "dir" / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("dir", "is a folder"),
        ("empty", "is empty"),
        ("link", "symbolic link"),
        ("dirlink/file", "symbolic link"),
        ("pipe", "is a pipe"),
        ("missing", "does not exist"),
        ("file/below", "cannot be read"),
    ):
        with pytest.raises(BadPart, match=f"{name}: .*{reason}"):
            read_bytes(str(tmp_path / name), 10)
    with pytest.raises(BadPart, match="device"):
        read_bytes("/dev/zero", 10)


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "a").chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    with pytest.raises(BadPart, match="permission denied"), opened(str(tmp_path / "a")):
        pass


def test_paths_in_a_bucket_stay_in_their_folder() -> None:
    config = SourceConfig(allowed_addresses=("s3://open",))
    folder = "s3://bucket/corpus"
    assert locate("img/a.png", folder, folder, config) == "s3://bucket/corpus/img/a.png"
    assert locate("s3://open/a.png", folder, folder, config) == "s3://open/a.png"
    for outside in (
        "../a.png",
        "/a.png",
        "s3://bucket/other/a.png",
        "s3://opened/a.png",
        "s3://open/../bucket/a",
    ):
        with pytest.raises(BadPart):
            locate(outside, folder, folder, config)


def test_a_pyarrow_file_system_is_walked_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/c/3.png", "a.png", ".hidden/x.png", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list(walk_filesystem(arrow_fs.LocalFileSystem(), str(tmp_path), "s3://bucket/x"))
    assert [(d.address, d.below, d.names) for d in found] == [
        ("s3://bucket/x", "", ("a.png", "z.png")),
        ("s3://bucket/x/b", "b", ("2.png",)),
        ("s3://bucket/x/b/c", "b/c", ("3.png",)),
    ]


def test_an_object_is_read_as_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"one\ntwo")
    (tmp_path / "empty").touch()
    with opened_by_pyarrow(f"file://{tmp_path}/rows", 7) as stream:
        assert stream.readline() == b"one\n"
        assert stream.read() == b"two"
    with opened_by_pyarrow(f"file://{tmp_path}/rows", None) as stream:
        assert hashlib.file_digest(stream, "sha256").digest() == hashlib.sha256(b"one\ntwo").digest()
    for name, reason in (
        ("", "is a folder"),
        ("nothing", "does not exist"),
        ("rows", "7 bytes"),
        ("empty", "empty"),
    ):
        with pytest.raises(BadPart, match=reason), opened_by_pyarrow(f"file://{tmp_path}/{name}", 6):
            pass


def test_an_unknown_scheme_is_an_error_that_names_those_that_work() -> None:
    config = SourceConfig(allowed_addresses=("ftp://host/",))
    with pytest.raises(SourceError, match=r"ftp://host/x: .*s3://"):
        list_items(["ftp://host/x"], config)


def test_an_allowed_address_must_be_one() -> None:
    with pytest.raises(ValidationError, match="allowed_roots is for folders"):
        SourceConfig(allowed_addresses=("/data",))
