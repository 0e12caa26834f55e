"""What of an address may be printed, and which addresses hold a secret."""

from __future__ import annotations

import pytest

from pipelines.core.addresses import is_here, masked, refuse_secret


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
