"""What of an address may be printed, and which addresses hold a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.addresses import index_directory, is_here, masked, refuse_secret
from pipelines.core.errors import UsageError


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://KEY:secret@bucket/kb", "s3://***@bucket/kb"),
        ("s3://KEY:pa@ss@bucket/kb", "s3://***@bucket/kb"),
        ("s3://KEY:pa/ss+w@bucket/kb", "s3://***@bucket/kb"),
        ("s3://:secret@bucket/a@b", "s3://***@b"),
        ("s3://KEY:/wJal@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:9/abc@bucket/x", "s3://***@bucket/x"),
        ("gs://anonymous@b?endpoint_override=http://u:p@h", "gs://***@b?endpoint_override=http://***@h"),
        ("abfs://box@account/kb?sv=1&sig=a%2Fb&se=2", "abfs://***@account/kb?sv=1&sig=***&se=2"),
        ("abfs://account/kb?client_secret=a", "abfs://account/kb?client_secret=***"),
    ],
)
def test_an_address_with_a_secret_is_refused_and_shown_without(address: str, shown: str) -> None:
    assert masked(address) == shown
    with pytest.raises(ValueError, match="AWS_SECRET_ACCESS_KEY") as caught:
        refuse_secret(address, ValueError)
    assert str(caught.value).startswith(shown)


@pytest.mark.parametrize(
    "address",
    [
        *("s3://bucket/kb?region=x&endpoint_override=127.0.0.1:1", "s3://bucket/a@b:c@d", "/a:b@c"),
        *("hdfs://host:8020/a@b", "hdfs://[::1]:8020/a@b", "gs://anonymous@bucket", "abfs://box@account/kb"),
    ],
)
def test_other_addresses_pass(address: str) -> None:
    assert refuse_secret(address, ValueError) == address


@pytest.mark.parametrize(
    ("url", "here"),
    [
        *(("http://0.0.0.0:8000", True), ("http://localhost.:8000", True), ("http://[::]:8000", True)),
        *(("http://127.0.0.1:8000", True), ("http://localhost/v1", True), ("https://[::1]:8000", True)),
        *(("http://127.0.0.1.example.com", False), ("http://10.0.0.1:8000", False), ("nonsense", False)),
    ],
)
def test_loopback_is_this_machine(url: str, here: bool) -> None:
    assert is_here(url) is here


@pytest.mark.parametrize(
    "address", ["s3://bucket/kb", "gs://bucket", "hdfs://host:8020/kb", "file:///srv/kb"]
)
def test_an_address_is_no_index_directory_nor_is_what_path_makes_of_it(address: str) -> None:
    for name in (address, Path(address)):
        with pytest.raises(UsageError, match="is an address, and an index is a directory"):
            index_directory(name)


def test_of_an_address_that_is_refused_no_secret_is_told() -> None:
    for name in ("s3://KEY:secret@bucket/kb", Path("s3://KEY:secret@bucket/kb")):
        with pytest.raises(UsageError, match=r"index s3://\*\*\*@bucket/kb: is an address"):
            index_directory(name)


@pytest.mark.parametrize("name", ["kb", "./kb", "/mnt/s3/kb", "a:b", "kb/s3:/x", "C:/kb", "知识"])
def test_any_path_is_an_index_directory(name: str) -> None:
    assert index_directory(name) == Path(name)


def test_a_file_is_no_index_directory_for_readers_either(tmp_path: Path) -> None:
    (tmp_path / "kb").touch()
    with pytest.raises(UsageError, match="kb: is a file; name a directory"):
        index_directory(tmp_path / "kb")
