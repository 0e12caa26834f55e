"""Reading bytes: what is refused, in a line that names the file; and object stores."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs as arrow_fs
from pydantic import ValidationError

from pipelines.core.errors import BadPart, NotAllowed, SourceError
from pipelines.ingest.archive import Archive
from pipelines.ingest.hashing import hash_file
from pipelines.ingest.sources import (
    AWAY,
    FORBIDDEN,
    UNAVAILABLE,
    Item,
    Rejected,
    SourceConfig,
    files,
    inside,
    list_items,
    opened,
    parse,
    read_bytes,
    stage_of,
)
from pipelines.ingest.sources.files import locate, opened_by_pyarrow
from pipelines.ingest.sources.walk import walk_filesystem


def test_a_file_up_to_the_bound_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(str(tmp_path / "a"), 5) == b"12345"
    with pytest.raises(BadPart, match="has 5 bytes, more than the 4 allowed"):
        read_bytes(str(tmp_path / "a"), 4)


class Flaky:
    """`os.open` that fails so often with this error, and then opens."""

    def __init__(self, error: Exception, times: int) -> None:
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
    assert stage_of(caught.value, "read") == UNAVAILABLE
    assert waits == [0.5, 2.0, 8.0]


_OF_THE_FILE = [
    *(OSError(code, os.strerror(code)) for code in (errno.ENOENT, errno.EACCES, errno.ELOOP)),
    OSError("When getting 'b': AWS Error UNKNOWN (HTTP status 404) during HeadObject operation: No body"),
    FileNotFoundError(errno.ENOENT, "Opening HDFS file '/b' failed"),
    OSError("google::cloud::Status(NOT_FOUND: Permanent error, with a last message of No such object)"),
    OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"),
]
_OF_A_LOGIN = [
    OSError("When getting 'b': AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No body"),
    OSError(
        "When reading 'b': AWS Error UNKNOWN (HTTP status 400) during GetObject operation: "
        "Unable to parse ExceptionName: ExpiredToken Message: The provided token has expired."
    ),
    OSError("When getting 'b': AWS Error INVALID_ACCESS_KEY_ID during GetObject operation: none such"),
    OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted in GetObjectMetadata)"),
    pa.ArrowException("google::cloud::Status(UNKNOWN: Could not create a OAuth2 access token)"),
]
_OF_ONE_OBJECT = [
    OSError("When getting 'b': AWS Error ACCESS_DENIED during HeadObject operation: No response body."),
    OSError("google::cloud::Status(PERMISSION_DENIED: Permanent error in GetObjectMetadata)"),
    OSError("GetProperties for 'b' failed. Azure Error: [AuthorizationFailure] 403 not authorized"),
    PermissionError(errno.EACCES, "Opening HDFS file '/b' failed"),
]


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        *((error, "read") for error in _OF_THE_FILE),  # told at once
        *((error, UNAVAILABLE) for error in _OF_A_LOGIN),  # which says nothing of the file
        *((error, AWAY) for error in _OF_ONE_OBJECT),  # which may be read again, or never
    ],
    ids=str,
)
def test_what_no_waiting_helps_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float], error: Exception, stage: str
) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    monkeypatch.setattr(files.os, "open", Flaky(error, 1))
    with pytest.raises(BadPart) as caught:
        read_bytes(str(tmp_path / "a"), 5)
    assert stage_of(caught.value, "read") == stage
    assert waits == []


class Hdfs:
    """pyarrow's file system when this is all that the name node tells of."""

    type_name = "hdfs"

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def get_file_info(self, path: str) -> arrow_fs.FileInfo:
        kind = arrow_fs.FileType.Directory if path in self.paths else arrow_fs.FileType.NotFound
        return arrow_fs.FileInfo(path, kind)


def test_hdfs_that_finds_not_even_its_root_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    stages = []
    for paths in ((), ("/",)):
        monkeypatch.setattr(files, "open_filesystem", lambda address, paths=paths: (Hdfs(*paths), "/a"))
        with pytest.raises(BadPart) as caught:
            read_bytes("hdfs://node:8020/a", 5)
        stages.append(stage_of(caught.value, "read"))
    assert stages == [UNAVAILABLE, "read"]


@pytest.mark.parametrize(
    ("left", "stage"), [(None, AWAY), ([], AWAY), ([".hidden"], AWAY), (["other.png"], "parse")], ids=str
)
def test_a_picture_that_is_missing_with_all_of_its_folder_may_return(
    tmp_path: Path, left: list[str] | None, stage: str
) -> None:
    folder = tmp_path / "pictures"
    if left is not None:
        folder.mkdir()
        for name in left:
            (folder / name).write_bytes(b"x")
    rows = [{"id": "a", "image": "pictures/a.png"}, {"id": "b", "image": "pictures/b.png", "text": "said"}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    alone, told = list_items([str(tmp_path / "m.jsonl")], SourceConfig())
    assert isinstance(alone, Item)
    assert isinstance(told, Item)
    [bad] = parse(told, SourceConfig()).rejected
    assert (bad.stage, bad.reason) == (stage, "pictures/b.png: does not exist")
    if stage == AWAY:
        assert [one.stage for one in parse(alone, SourceConfig()).rejected] == [AWAY]
    else:
        with pytest.raises(BadPart, match="does not exist"):
            parse(alone, SourceConfig())


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside text"])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("../other/a.png", '{"id": "a", "image": "%s", "text": "%s"}'),
        ("s3://other/a.png", '{"id": "a", "image": "%s", "text": "%s"}'),
        ("../other/a.png", '<img src="%s" width="90">%s'),
        ("s3://other/a.png", '<img src="%s" width="90">%s'),
    ],
)
def test_what_the_settings_do_not_allow_is_told_apart_from_what_is_missing(
    tmp_path: Path, name: str, form: str, alone: bool
) -> None:
    file = tmp_path / ("in.jsonl" if form.startswith("{") else "in.html")
    file.write_text(form % (name, "" if alone else "said"))
    [item] = list_items([str(file)], SourceConfig())
    assert isinstance(item, Item)
    if alone:
        with pytest.raises(NotAllowed) as caught:
            parse(item, SourceConfig())
        assert stage_of(caught.value, "parse") == FORBIDDEN
    else:
        [bad] = parse(item, SourceConfig()).rejected
        assert bad.stage == FORBIDDEN
        assert re.search("leaves .*; move it inside|is a network address; copy it here", bad.reason)


class Breaking(io.RawIOBase):
    """The file, whose storage fails from this byte on."""

    def __init__(self, handle: int, good_bytes: int) -> None:
        self.file, self.left = io.FileIO(handle), good_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        if self.file.tell() >= self.left:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self.file.readinto(memoryview(buffer)[: self.left - self.file.tell()]) or 0


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def begin(good_bytes: int) -> None:
        monkeypatch.setattr(
            files.os, "fdopen", lambda handle, _: io.BufferedReader(Breaking(handle, good_bytes), 512)
        )

    return begin


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.json", "m.tar", "m.parquet"])
@pytest.mark.parametrize("good_bytes", [0, 20_000])
def test_storage_that_fails_in_the_middle_of_a_source_costs_that_source(
    tmp_path: Path, breaking: Callable[[int], None], name: str, good_bytes: int
) -> None:
    rows = [{"id": f"row-{n}", "text": "some text " * 20 + str(n)} for n in range(300)]
    lines = "\n".join(map(json.dumps, rows))
    path = tmp_path / name
    if name == "m.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=10, compression="none")
    elif name == "m.tar":
        with tarfile.open(path, "w") as archive:
            for n in range(100):
                (tmp_path / f"{n}.txt").write_text("text")
                archive.add(tmp_path / f"{n}.txt", f"{n}.txt")
    elif name == "m.csv":
        path.write_text("id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows))
    else:
        path.write_text(lines if name == "m.jsonl" else "[" + lines.replace("\n", ",\n") + "]")
    (tmp_path / "good.md").write_text("Good.")
    breaking(good_bytes)
    *found, last = list_items([str(path), str(tmp_path / "good.md")], SourceConfig())
    assert isinstance(last, Rejected)
    assert (last.source, last.stage) == (str(path), "list")
    assert "Input/output error" in last.reason
    items = [item for item in found if isinstance(item, Item)]
    assert items[-1].document_id == f"{tmp_path.name}/good.md"


def test_storage_that_fails_in_a_row_group_says_nothing_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["t", "t"]}), tmp_path / "x.parquet", row_group_size=1)
    original = pq.ParquetFile.iter_batches

    def stale(*args: Any, row_groups: list[int], **how: Any) -> Iterator[Any]:
        if row_groups == [1]:
            raise OSError(errno.ESTALE, "Stale file handle")
        yield from original(*args, row_groups=row_groups, **how)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", stale)
    listing = iter(list_items([str(tmp_path / "x.parquet")], SourceConfig()))
    assert isinstance(next(listing), Item)
    with pytest.raises(SourceError, match="Stale file handle"):
        next(listing)


def test_storage_that_fails_in_the_middle_of_a_file_is_told_apart_from_a_bad_file(
    tmp_path: Path, breaking: Callable[[int], None], waits: list[float]
) -> None:
    path = str(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"1" * 5000)
    breaking(1000)
    for address in (path, f"{path}#bytes=1500+20"):
        with pytest.raises(BadPart, match="Input/output error") as caught:
            read_bytes(address, 10_000)
        assert stage_of(caught.value, "read") == UNAVAILABLE
    assert waits == [0.5, 2.0, 8.0] * 2
    assert read_bytes(f"{path}#bytes=100+20", 10_000) == b"1" * 20
    assert hash_file(path) == f"unreadable: {path}: cannot be read (Input/output error)"


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


ODD = "图 1#?[x]%20.png"


@pytest.fixture
def parsed_uris(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pyarrow is given to parse: options stand there."""
    uris: list[str] = []
    original = arrow_fs.FileSystem.from_uri

    class Telling:
        @staticmethod
        def from_uri(uri: str) -> Any:
            uris.append(uri)
            return original(uri)

    monkeypatch.setattr(files.arrow_fs, "FileSystem", Telling)
    return uris


def put(address: str, data: bytes) -> None:
    filesystem, path = files.open_filesystem(address)
    filesystem.create_dir(files.parent(path), recursive=True)
    with filesystem.open_output_stream(path) as out:
        out.write(data)


def test_the_key_of_an_object_is_taken_as_it_is(parsed_uris: list[str]) -> None:
    config = SourceConfig(allowed_addresses=("mock://odd-keys",))
    put(f"mock://odd-keys/corpus/数 据/{ODD}", b"12345")
    put("mock://odd-keys/corpus/数 据/m.jsonl", json.dumps({"id": "a", "image": ODD}).encode())
    [listed] = list_items(["mock://odd-keys/corpus"], config)
    assert (listed.document_id, listed.address) == (
        f"corpus/数 据/{ODD}",
        f"mock://odd-keys/corpus/数 据/{ODD}",
    )
    for source in ("数 据/m.jsonl", f"数 据/{ODD}"):
        [item] = list_items([f"mock://odd-keys/corpus/{source}"], config)
        assert isinstance(item, Item)
        assert parse(item, config).document.images == (listed.address,)
    assert read_bytes(listed.address, 5) == b"12345"
    with opened(listed.address) as stream:
        assert stream.read() == b"12345"
    assert set(parsed_uris) == {"mock://odd-keys/x"}


@pytest.mark.parametrize(
    "name",
    [
        "x.png?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1",
        "%2e%2e/secret/x.png",
        "x.png#y",
        "a::mock:another/x.png",
    ],
)
def test_what_a_document_writes_is_a_key_and_never_an_option_of_the_store(
    parsed_uris: list[str], name: str
) -> None:
    config = SourceConfig(allowed_addresses=("mock://keys-not-options",))
    folder = "mock://keys-not-options/corpus"
    put("mock://keys-not-options/secret/x.png", b"secret")
    put(f"{folder}/x.png", b"another")
    for written in (name, f"{folder}/{name}"):
        assert locate(written, folder, folder, config) == f"{folder}/{name}"
    with pytest.raises(BadPart, match="does not exist"):
        read_bytes(f"{folder}/{name}", 10)
    assert files.remote_stamp(f"{folder}/{name}") == ""
    assert set(parsed_uris) <= {"mock://keys-not-options/x"}


@pytest.mark.parametrize(
    "name",
    [
        "mock://bucket?endpoint_override=127.0.0.1:9/x.png",
        "mock://bucket#a/x.png",
        "mock://bucket::mock://another/x.png",
        "mock://one two/x.png",
        "mock://a@b@bucket/x.png",
    ],
)
def test_a_bucket_is_a_name_where_every_bucket_is_allowed(name: str) -> None:
    config = SourceConfig(allowed_addresses=("mock://",))
    with pytest.raises(BadPart, match="names no bucket"):
        locate(name, "/data", "/data", config)
    with pytest.raises(SourceError, match="names no bucket"):
        files.open_filesystem(name)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("s3://bucket/a b/c%20d", "bucket/a b/c%20d"),
        ("s3://bucket/a@b:c@d", "bucket/a@b:c@d"),
        ("s3://bucket", "bucket"),
        ("gs://anonymous@bucket/a?b", "bucket/a?b"),
        ("abfs://box@account.dfs.core.windows.net/a#b", "box/a#b"),
        ("mock://bucket/a", "a"),
        ("fsspec+memory://bucket/a b", "/bucket/a b"),
        ("fsspec+file:///tmp/a b", "/tmp/a b"),
        ("file:///tmp/a%20b", "/tmp/a%20b"),
    ],
)
def test_each_store_has_its_own_form_of_a_path(
    monkeypatch: pytest.MonkeyPatch, address: str, path: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # else the bucket's region is asked for
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert files.open_filesystem(address)[1] == path


def test_a_path_beside_the_files_of_a_bucket_stays_in_the_bucket() -> None:
    config = SourceConfig()
    assert locate("a.png", "s3://bucket", "s3://bucket", config) == "s3://bucket/a.png"
    assert locate("../a.png", "s3://bucket", "s3://bucket", config) == "s3://bucket/a.png"
    assert files.joined("s3://bucket/site", "img") == "s3://bucket/site/img"
    assert files.joined("s3://bucket/a?b#c", "../d") == "s3://bucket/d"


def test_options_behind_a_source_are_not_read_and_it_says_what_is() -> None:
    config = SourceConfig(allowed_addresses=("mock://bucket",))
    with pytest.raises(SourceError, match=r"does not exist .*AWS_ENDPOINT_URL names another S3"):
        list_items(["mock://bucket/corpus?endpoint_override=127.0.0.1:9"], config)


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


def test_an_allowed_root_must_be_one() -> None:
    for root, reason in (("~nobody-of-that-name/x", "home of a user"), ("/a\0b", "no path has")):
        with pytest.raises(ValidationError, match=reason):
            SourceConfig(allowed_roots=(root,))


def test_an_allowed_root_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home" / "open").mkdir(parents=True)
    (tmp_path / "home" / "open" / "a.png").write_bytes(b"x")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = SourceConfig(allowed_roots=("~/open-once", "~/open"))
    looked_up: list[str] = []
    original = files.local_address

    def counted(name: str) -> str:
        looked_up.append(name)
        return original(name)

    monkeypatch.setattr(files, "local_address", counted)
    files._root.cache_clear()
    for _ in range(3):
        assert locate("../home/open/a.png", str(tmp_path / "x"), str(tmp_path / "x"), config)
    assert looked_up == ["~/open-once", "~/open"]
    files._root.cache_clear()


def test_an_allowed_address_must_be_one() -> None:
    with pytest.raises(ValidationError, match="allowed_roots is for folders"):
        SourceConfig(allowed_addresses=("/data",))


@pytest.mark.parametrize(
    "address",
    ["s3://key:hunter2@bucket/kb", "s3://key:hunter2@bucket/../kb", "abfs://box@account/kb?sig=hunter2"],
)
def test_a_secret_in_an_address_is_refused_and_not_printed(address: str, tmp_path: Path) -> None:
    config = SourceConfig(allowed_addresses=("s3://", "abfs://"))
    (tmp_path / "m.jsonl").write_text(json.dumps({"image": address}))
    [rejected] = list_items([str(tmp_path / "m.jsonl")], config)
    told = [f"{rejected}"]
    for refuse, error in (
        (lambda: files.open_uri(address), SourceError),
        (lambda: files.open_filesystem(address), SourceError),
        (lambda: locate(address, "/data", "/data", config), BadPart),
        (lambda: list_items([address], config), SourceError),
        (lambda: Archive(address), SourceError),
        (lambda: SourceConfig(allowed_addresses=(address,)), ValueError),
    ):
        with pytest.raises(error, match="AWS_SECRET_ACCESS_KEY") as caught:
            refuse()
        told.append(str(caught.value))
    assert "***" in told[0]
    assert "hunter2" not in "".join(told)
