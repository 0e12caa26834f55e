"""`mmrag serve` whose stores go away: it says what is missing, answers from the rest, finds them again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import photograph, png
from small_index import of_packaged_models

from benchmarks.processes import kill, vector_servers
from pipelines.core.stores.config import StoresConfig
from pipelines.serve.client import served
from tests.contracts.servers import elastic_server, free_port

MMRAG = str(Path(sys.executable).with_name("mmrag"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Served:
    address: str
    index: Path
    words: ExitStack
    """Closing it stops the lexical store."""
    start_words: Callable[[], Any]

    def search(self) -> dict[str, Any]:
        response = httpx.post(f"{self.address}/v1/search", json={"query": "the red pump"}, timeout=120)
        assert response.status_code == 200, response.text
        return response.json()

    def health(self) -> dict[str, Any]:
        response = httpx.get(f"{self.address}/healthz", timeout=120)
        assert response.status_code == 200, response.text
        return response.json()

    def until(self, holds: Callable[[], bool], what: str, within_s: float = 90) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("stores")
    (folder / "words").mkdir()
    port, words = free_port(), ExitStack()

    def start_words() -> str:
        return words.enter_context(elastic_server(folder / "words", port))

    with words:
        config, index = folder / "settings.yaml", folder / "kb"
        settings = {
            "stores": {"elastic": {"url": start_words()}},
            "generator": {"engine": "transformers", "max_tokens": 8},
            "serve": {"layout": "compact"},
        }
        config.write_text(json.dumps(settings))  # JSON is YAML
        stores = StoresConfig.model_validate(settings["stores"])
        of_packaged_models(index, [("d0", png(photograph(0, 200)), "the red pump", "")], stores)
        with served(index, ["--config", str(config)]) as address:
            yield Served(address, index, words, start_words)


def test_without_its_lexical_store_it_answers_and_says_so_until_it_is_back(server: Served) -> None:
    assert server.search()["degraded"] == []
    server.words.close()
    found = server.search()
    assert [hit["document_id"] for hit in found["hits"]] == ["d0"]
    assert [part.split(":")[0] for part in found["degraded"]] == ["lexical"]
    server.until(lambda: server.health()["status"] == "degraded", "its health tells of it")
    assert server.health()["parts"]["lexical"] != "ok"
    server.start_words()
    server.until(lambda: server.search()["degraded"] == [], "all branches answer")
    server.until(lambda: server.health()["status"] == "ok", "its health is whole")


def test_where_no_store_answers_it_does_not_start_and_says_why(tmp_path: Path) -> None:
    nowhere = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    settings = [
        f"stores.milvus.uri={nowhere[0]}",
        f"stores.elastic.url={nowhere[1]}",
        "stores.elastic.max_retries=0",
        "generator.engine=transformers",
        "serve.store_patience_s=0",
        "serve.layout=compact",
    ]
    of_packaged_models(tmp_path / "kb", [("d0", png(photograph(0, 200)), "the red pump", "")])
    asked = [MMRAG, "serve", "--index", str(tmp_path / "kb"), "--port", "0"]
    asked += [f"--set={one}" for one in settings]
    once = os.environ | {"RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1"}  # Ray tries it three times
    ended = subprocess.run(asked, capture_output=True, text=True, timeout=500, env=once)
    assert ended.returncode == 1, ended.stderr
    assert "the server did not start: gateway: " in ended.stderr
    assert "no branch could answer: text_to_image: " in ended.stderr
    assert "ready: " not in ended.stderr


def test_vector_servers_that_are_killed_are_started_anew(server: Served) -> None:
    lost = vector_servers(server.index)
    assert lost
    kill(lost)
    assert [hit["document_id"] for hit in server.search()["hits"]] == ["d0"]
    server.until(lambda: server.search()["degraded"] == [], "all branches answer")
    assert {one.pid for one in vector_servers(server.index)}.isdisjoint(one.pid for one in lost)
