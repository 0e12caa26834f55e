"""Bad input over HTTP: a 4xx with one sentence, no 500, nothing leaked."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fakes import picture
from gateway_fakes import ScriptedBackend, app_of, client_of, data_uri
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core import images
from pipelines.core.errors import OtherIndex, StoreUnavailable
from pipelines.core.retriever import Query
from pipelines.core.types import SearchResult
from pipelines.serve import faults
from pipelines.serve.pictures import check_pixels, read_data_uri

pytestmark = pytest.mark.anyio

ROUTES = ["/v1/search", "/v1/answer", "/v1/chat/completions"]
JSON = {"Content-Type": "application/json"}


class Decoding(ScriptedBackend):
    """Looks at the question's picture, as every real one does."""

    async def search(self, query: Query) -> SearchResult:
        if query.image is not None:
            images.decode(query.image)
        return await super().search(query)


@pytest.fixture
def client() -> httpx.AsyncClient:
    return client_of(app_of(Decoding(), max_body_bytes=200_000, max_picture_bytes=100_000))


def refused(found: httpx.Response, status: int = 400) -> str:
    """The one sentence of a refusal."""
    assert found.status_code == status, found.text
    assert list(found.json()) == ["error"]
    assert set(found.json()["error"]) == {"message", "type"}
    message: str = found.json()["error"]["message"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    assert len(message) <= 400
    return message


def bomb(width: int, height: int) -> bytes:
    """A PNG that declares so many pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiled(side: int) -> bytes:
    """A TIFF of one pixel, whose tile declares so many pixels a side."""
    values = {256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 277: 1, 322: side, 323: side, 324: 0, 325: side * side}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"query": "q"',
        b"[]",
        b"null",
        b'"q"',
        b"\xff\xfe",
        b"\0" * 100,
        b'{"k": 1e400}',
        b'{"query": 5}',
        b'{"k": NaN}',
        b'{"k": Infinity}',
        b"[" * 100_000,
        b'{"k": ' + b"9" * 5000 + b"}",
        b"{}",
    ],
)
async def test_a_body_that_is_no_request_is_refused(
    client: httpx.AsyncClient, path: str, body: bytes
) -> None:
    refused(await client.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", ""]
)
async def test_a_body_of_another_type_is_refused(
    client: httpx.AsyncClient, path: str, content_type: str
) -> None:
    found = await client.post(path, content=b'{"query": "q"}', headers={"Content-Type": content_type})
    assert "application/json" in refused(found)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "the query is empty"),
        ({"query": " "}, "the query is empty"),
        ({"query": "q", "mode": "image"}, "mode image needs a picture"),
        ({"query": "q", "mode": "psychic"}, "mode: Input should be 'auto', 'text'"),
        ({"query": "q", "k": 0}, "k: Input should be greater than or equal to 1"),
        ({"query": "q", "k": 101}, "k is 101; this server allows 100"),
        ({"query": "q", "k": 10**30}, "k: "),
        ({"query": "q", "k": "5"}, "k: Input should be a valid integer"),
        ({"query": "q", "k": 1.5}, "k: Input should be a valid integer"),
        ({"query": "q", "k": True}, "k: Input should be a valid integer"),
        ({"query": "x" * 8001}, "the question has 8,001 characters"),
        ({"query": "a\0b"}, "query: the text holds a NUL character"),
        ({"query": "q", "filter": "year =="}, "filter"),
        ({"query": "q", "filter": ""}, "filter"),
        ({"query": "q", "filter": "yaer == 1"}, "filter: this index has no field 'yaer'"),
        ({"query": "q", "filter": 'year == "x"'}, "filter: year holds numbers"),
        ({"query": "q", "filter": "(" * 4000}, "filter"),
        ({"query": "q", "filter": "x" * 5000}, "filter: String should have at most 4096 characters"),
        ({"query": "q", "filter": "year == 1\0"}, "filter: the text holds a NUL character"),
        ({"query": "q", "tenant": "b"}, "tenant: there is no such field"),
        ({"query": "q", "x" * 10_000: 1}, "xxx"),
        ({"query": "q", "image": "/etc/passwd"}, "the picture must be a data URI"),
        ({"query": "q", "image": "file:///etc/passwd"}, "the picture must be a data URI"),
        ({"query": "q", "image": "data:text/html;base64,AAAA"}, "the picture must be a data URI"),
        ({"query": "q", "image": data_uri(b"<svg/>", "image/svg+xml")}, "the picture is an SVG drawing"),
        ({"query": "q", "image": data_uri(b"<svg/>")}, "not a picture: an SVG drawing"),
        ({"query": "q", "image": data_uri(b"MZ")}, "not a picture"),
        ({"query": "q", "image": data_uri(picture()[:50])}, "truncated PNG"),
        ({"query": "q", "image": data_uri(b"")}, "the picture's data URI is empty"),
        ({"query": "q", "image": "data:image/png;base64,AA=A"}, "the picture's base64 is damaged"),
        ({"query": "q", "image": "data:image/png;base64,AA A"}, "the picture's base64 is damaged"),
        ({"query": "q", "image": "data:image/png;base64,图"}, "the picture's base64 is damaged"),
        ({"query": "q", "image": "data:image/png,%89PNG"}, "the picture's data URI must be in base64"),
    ],
)
async def test_a_search_that_makes_no_sense_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], message: str
) -> None:
    assert refused(await client.post("/v1/search", json=body)).startswith(message)


@pytest.mark.parametrize("field", ["query", "filter", "image", "\\ud800"])
async def test_half_a_surrogate_pair_is_refused(client: httpx.AsyncClient, field: str) -> None:
    body = b'{"query": "q", "%b": "\\ud800"}' % field.encode()
    refused(await client.post("/v1/search", content=body, headers=JSON))


@pytest.mark.parametrize(
    "history",
    [
        [{"role": "system", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": "x", "name": "y"}],
        [{"role": "user", "content": "\0"}],
        [{"role": "user", "content": "x"}] * 1001,
        "x",
    ],
)
async def test_a_history_that_makes_no_sense_is_refused(client: httpx.AsyncClient, history: Any) -> None:
    refused(await client.post("/v1/answer", json={"query": "q", "history": history}))


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_that_says_it_is_huge_is_refused_unread(path: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(200):
            sent += 2**20
            yield bytes(2**20)

    async with client_of(app_of(ScriptedBackend())) as client:
        found = await client.post(path, content=body(), headers=JSON | {"Content-Length": str(200 * 2**20)})
    assert "33,554,432" in refused(found, 413)
    assert sent == 0


@pytest.mark.parametrize("path", ROUTES)
async def test_a_body_in_pieces_is_read_up_to_the_limit(client: httpx.AsyncClient, path: str) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 10_000
            yield bytes(10_000)

    refused(await client.post(path, content=body(), headers=JSON), 413)
    assert sent <= 220_000


async def test_a_body_that_never_ends_is_given_up() -> None:
    async def body() -> AsyncIterator[bytes]:
        import asyncio

        yield b"{"
        await asyncio.Event().wait()

    async with client_of(app_of(ScriptedBackend(), deadline_s=0.05)) as client:
        refused(await client.post("/v1/search", content=body(), headers=JSON), 408)


async def test_a_picture_above_the_limit_is_refused(client: httpx.AsyncClient) -> None:
    found = await client.post("/v1/search", json={"image": data_uri(bytes(100_001))})
    assert "larger than 100,000 bytes" in refused(found, 413)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("size", [(50_000, 50_000), (8001, 4000), (2**31 - 1, 1)])
async def test_a_picture_of_too_many_pixels_is_refused_by_its_header(
    client: httpx.AsyncClient, path: str, size: tuple[int, int]
) -> None:
    uri = data_uri(bomb(*size))
    content = [{"type": "image_url", "image_url": {"url": uri}}]
    chat = {"messages": [{"role": "user", "content": content}]}
    found = await client.post(path, json=chat if "chat" in path else {"image": uri})
    told = f"the picture has {size[0]} x {size[1]} pixels; send one of 32,000,000 at most"
    assert refused(found, 413) == told


@pytest.mark.parametrize(("side", "status"), [(8, 200), (9, 413)])
async def test_the_bound_of_pixels_is_a_setting(side: int, status: int) -> None:
    async with client_of(app_of(Decoding(), max_picture_pixels=64)) as client:
        found = await client.post("/v1/search", json={"image": data_uri(picture(side=side))})
    assert found.status_code == status


def test_a_tile_counts_where_it_is_larger_than_its_picture() -> None:
    check_pixels(tiled(512), 512 * 512)
    with pytest.raises(faults.TooLarge, match="512 x 512"):
        check_pixels(tiled(512), 512 * 512 - 1)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 99, 100, 101, 102, 103, 104])
def test_the_bound_of_a_picture_is_exact(size: int) -> None:
    uri = data_uri(bytes(size))
    if 0 < size <= 100:
        assert read_data_uri(uri, 100) == bytes(size)
    else:
        with pytest.raises((faults.TooLarge, faults.UsageError)):
            read_data_uri(uri, 100)


def test_parameters_and_case_of_a_data_uri_do_not_matter() -> None:
    assert read_data_uri("DATA:Image/PNG;charset=x;BASE64,AAAA", 100) == bytes(3)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(
    ["query", "image", "mode", "k", "filter", "history", "annotate", "messages", "model", "stream", "n"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(ROUTES), body=st.dictionaries(fields, values, max_size=5))
def test_no_json_makes_the_server_fail(path: str, body: dict[str, Any]) -> None:
    import asyncio
    import json

    async def post() -> httpx.Response:
        async with client_of(app_of(Decoding())) as client:
            return await client.post(path, content=json.dumps(body).encode(), headers=JSON)

    found = asyncio.run(post())
    assert found.status_code in (200, 400, 404)


@pytest.mark.parametrize(
    ("complaint", "told"),
    [
        (
            "no branch could answer: text: http://10.0.0.7:19530: search failed; is Milvus running there?; "
            "lexical: https://es:9200/: search failed; is Elasticsearch running there? (ConnectionError(x))",
            "no branch could answer: text: …: search failed; is Milvus running there?; "
            "lexical: …: search failed; is Elasticsearch running there?",
        ),
        (
            "/srv/mmrag-index/stores: the vector server ended with status 1; is the disk full? "
            "/srv/mmrag-index/server.log ends with:\nTraceback: secret",
            "…: the vector server ended with status 1; is the disk full? … ends with:",
        ),
        ("text: no answer within 30 s", "text: no answer within 30 s"),
        ("clip does not read the language", "clip does not read the language"),
        ("", ""),
    ],
)
def test_a_stores_complaint_is_told_without_addresses(complaint: str, told: str) -> None:
    assert faults.public(complaint) == told
    found = faults.fault(StoreUnavailable(complaint), 2)
    assert (found.status, found.message, found.retry_after_s) == (503, told, 2)


def test_stores_of_another_index_are_the_servers_fault_and_not_told() -> None:
    complaint = OtherIndex("collection kb_text belongs to the index /srv/kb (1)")
    assert faults.fault(complaint, 2) == faults.INTERNAL
