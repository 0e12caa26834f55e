"""What ElasticStore does with a server that has no room, or refuses a part: by a small server that says so.

The server that the contract runs on is never busy.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import memory_index
from shelf import part

from pipelines.core.errors import PartsRefused, StoreError, StoreUnavailable
from pipelines.core.stores.config import ElasticConfig
from pipelines.core.stores.elastic import _MAPPINGS, ElasticStore
from pipelines.ingest.ledger import Ledger
from pipelines.ingest.rows import DOCUMENT, part_row, table
from pipelines.ingest.run import Run
from pipelines.ingest.sink import finish, write_rows


class Answers(ThreadingHTTPServer):
    """Has one index, and answers the next bulk requests with these statuses of each of their items, and the
    next deletes by query, each after `delete_s`, with these numbers of conflicts."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[Sequence[int]] = []
        self.conflicts: list[int] = []
        self.delete_s = 0.0
        self.sent: list[int] = []
        """Bytes of each bulk request."""
        self.posted: list[tuple[str, Any]] = []
        """The path and the body of each other request that asks for something to be done."""


class _Handler(BaseHTTPRequestHandler):
    server: Answers
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"mm-text": {"mappings": dict(_MAPPINGS)}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        self.server.posted.append((url.path, json.loads(body) if body else None))
        conflicts = 0
        if url.path.endswith("_delete_by_query"):
            assert "conflicts=proceed" in url.query
            time.sleep(self.server.delete_s)
            conflicts = self.server.conflicts.pop(0) if self.server.conflicts else 0
        self._answer({"failures": [], "version_conflicts": conflicts})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.sent.append(len(body))
        keys = [line["index"]["_id"] for line in map(json.loads, body.splitlines()[::2])]
        statuses = self.server.statuses.pop(0) if self.server.statuses else [201] * len(keys)
        items = [
            {
                "index": {"_id": key, "status": status}
                | ({"error": {"type": TYPES[status]}} if status > 299 else {})
            }
            for key, status in zip(keys, statuses, strict=True)
        ]
        self._answer({"took": 1, "errors": any(status > 299 for status in statuses), "items": items})

    def _answer(self, said: object) -> None:
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/vnd.elasticsearch+json;compatible-with=8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


TYPES = {
    **{400: "document_parsing_exception", 403: "cluster_block_exception"},
    **dict.fromkeys((429, 503), "es_rejected_execution_exception"),
}


@pytest.fixture
def server() -> Iterator[Answers]:
    with Answers() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def opened(server: Answers, max_retries: int = 0, **settings: float) -> ElasticStore:
    url = f"http://127.0.0.1:{server.server_port}"
    config = ElasticConfig.model_validate(
        {"url": url, "prefix": "mm-", "max_retries": max_retries, **settings}
    )
    return ElasticStore.open(config, "text")


@pytest.mark.parametrize("status", [429, 503])
def test_parts_for_which_there_is_no_room_are_sent_again(server: Answers, status: int) -> None:
    server.statuses = [[201, status, 201]]
    with opened(server, max_retries=1) as store:
        store.upsert([part("a"), part("b"), part("c")])
    assert len(server.sent) == 2
    assert server.sent[1] < server.sent[0]  # the one of three


def test_a_server_that_stays_busy_is_unavailable_which_the_job_waits_out(server: Answers) -> None:
    server.statuses = [[201, 429]]
    with opened(server) as store, pytest.raises(StoreUnavailable, match="too busy to write 1 parts"):
        store.upsert([part("a"), part("b")])


def test_a_part_that_is_refused_for_good_is_named_and_not_sent_again(server: Answers) -> None:
    server.statuses = [[400, 429, 201], [201]]
    parts = [part("a"), part("b"), part("c")]
    refused = pytest.raises(PartsRefused, match=r"1 parts were refused.*parsing")
    with opened(server, max_retries=1) as store, refused as caught:
        store.upsert(parts)
    assert caught.value.reasons == {parts[0].key: "{'type': 'document_parsing_exception'}"}
    assert len(server.sent) == 2
    assert server.sent[1] < server.sent[0]  # the busy one of three


def test_while_others_find_no_room_a_refused_part_is_not_told(server: Answers) -> None:
    server.statuses = [[400, 429, 201]]
    with opened(server) as store, pytest.raises(StoreUnavailable):
        store.upsert([part("a"), part("b"), part("c")])


@pytest.mark.parametrize(
    ("status", "kind"), [(403, "cluster_block_exception"), (400, "index_closed_exception")]
)
def test_what_is_wrong_with_the_index_is_no_fault_of_a_part(
    server: Answers, monkeypatch: pytest.MonkeyPatch, status: int, kind: str
) -> None:
    monkeypatch.setitem(TYPES, status, kind)
    server.statuses = [[201, status, 201]]
    with opened(server) as store, pytest.raises(StoreError, match="1 parts were refused") as caught:
        store.upsert([part("a"), part("b"), part("c")])
    assert not isinstance(caught.value, PartsRefused | StoreUnavailable)


def test_an_ingest_goes_on_without_what_is_refused_and_makes_its_writes_searchable_once(
    server: Answers, tmp_path: Path
) -> None:
    server.statuses = [[400, 201]]
    index = memory_index(tmp_path / "kb")
    run = Run(index.home, "run-1", "f1")
    run.begin()
    vector = np.eye(1, 64, dtype=np.float32).tobytes()
    documents = [("a", "poison"), ("b", "text"), ("c", "text")]
    with opened(server) as store:
        index.lexical = lambda: store  # type: ignore[method-assign]
        for batch in (documents[:2], documents[2:]):
            chunks = [part(document, text=text) for document, text in batch]
            described = [
                part_row(chunk)
                | {"kind": DOCUMENT, "key": chunk.document_key, "inputs": [], "digest": "d", "num_parts": 1}
                for chunk in chunks
            ]
            write_rows(table([*(part_row(chunk, vector=vector) for chunk in chunks), *described]), index, run)
        assert server.posted == []
        finished = finish(index, run, Ledger.load(index.home))[1]
    assert [path for path, _ in server.posted] == ["/mm-text/_refresh"]
    assert (finished.documents, finished.chunks, finished.rejected) == (3, 2, 1)
    (letter,) = pq.read_table(index.directory / "rejected").to_pylist()
    assert (letter["document_id"], letter["stage"]) == ("a", "store")


def test_no_query_has_more_terms_than_a_server_takes(server: Answers) -> None:
    keep = [f"{n:032x}" for n in range(2 * 65_536 + 1)]
    with opened(server) as store:
        store.delete_documents(["d"], keep)
    (query,) = (body["query"]["bool"] for path, body in server.posted if path.endswith("_delete_by_query"))
    assert query["filter"] == [{"terms": {"document_key": ["d"]}}]
    kept = [clause["terms"]["key"] for clause in query["must_not"]]
    assert [len(keys) for keys in kept] == [65_536, 65_536, 1]
    assert [key for keys in kept for key in keys] == keep


def deletes(server: Answers) -> int:
    return sum(path.endswith("_delete_by_query") for path, _ in server.posted)


def test_what_changed_under_a_delete_is_deleted_by_another(server: Answers) -> None:
    server.conflicts = [7, 1, 0]
    with opened(server) as store:
        store.delete_documents(["d"])
    assert deletes(server) == 3


def test_a_delete_that_meets_changes_again_and_again_may_be_tried_later(server: Answers) -> None:
    server.conflicts = [1] * 100
    with opened(server) as store, pytest.raises(StoreUnavailable, match="others keep changing"):
        store.delete_documents(["d"])
    assert deletes(server) == 5


def test_a_delete_may_take_longer_than_another_request(server: Answers) -> None:
    server.delete_s = 1.0
    with opened(server, timeout_s=0.3) as store:
        store.delete_documents(["d"])
    assert deletes(server) == 1


def test_a_request_has_a_bounded_size(server: Answers) -> None:
    with opened(server) as store:
        store.upsert([part(f"d{n}", text="热" * 20_000) for n in range(300)])
    assert len(server.sent) == 2
    assert max(server.sent) <= 10 << 20
