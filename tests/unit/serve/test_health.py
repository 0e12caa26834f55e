"""The question that /healthz asks: what it tells where a store hangs, and that no user asked it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import DownStore, ShelvedIndex, shelved_index
from memory_stores import MemoryLexicalStore

from pipelines.core import patience
from pipelines.core.errors import GeneratorUnavailable, StoreUnavailable
from pipelines.core.generator import Prompt, Sampling
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import Found, Usage
from pipelines.serve import health
from pipelines.serve.backend import Health
from pipelines.serve.config import MonitorConfig, ServeConfig
from pipelines.serve.health import Probe
from pipelines.serve.retrieval import Retrieval

STORES = ("visual_knowledge", "text_knowledge", "lexical")


class Talks:
    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        yield "a"


class Silent:
    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        raise GeneratorUnavailable("the generator does not answer")
        yield


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """An index of nothing."""
    with shelved_index(tmp_path, writable=True) as index, index.write_lock():
        index.create()
        for store in index.stores.values():
            store()
    return tmp_path


def retrieval(directory: Path, patience_s: float = 0.0) -> Retrieval:
    serve = ServeConfig(store_patience_s=patience_s, monitor=MonitorConfig(drift_window=10))
    return Retrieval(shelved_index(directory), SearchConfig(), serve)


def put(directory: Path, store: Any, *names: str) -> None:
    for name in names:
        ShelvedIndex.shelf[directory, name] = store


def probed(searched: Retrieval, generator: Any = None) -> Health:
    return asyncio.run(Probe(searched, generator or Talks()).health())


def test_an_index_of_nothing_is_well(empty: Path) -> None:
    assert probed(retrieval(empty)) == Health(True, {"retrieval": "ok", "generator": "ok"})


def test_a_branch_that_hangs_is_named_and_the_others_answer(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    class Hanging(MemoryLexicalStore):
        def search(self, *args: Any, **kwargs: Any) -> list[Found]:
            over.wait(60)
            return []

    put(empty, Hanging(), "lexical")
    assert health._BRANCH_TIMEOUT_S < health._TIMEOUT_S / 2 < SearchConfig().branch_timeout_s
    monkeypatch.setattr(health, "_BRANCH_TIMEOUT_S", 0.3)
    found = probed(retrieval(empty))
    over.set()
    assert found == Health(True, {"retrieval": "ok", "lexical": "no answer within 0.3 s", "generator": "ok"})


def test_without_any_branch_or_without_the_generator_it_is_not_ready(empty: Path) -> None:
    assert probed(retrieval(empty), Silent()) == Health(
        False, {"retrieval": "ok", "generator": "the generator does not answer"}
    )
    put(empty, DownStore(), *STORES)
    found = probed(retrieval(empty))
    assert not found.ready
    assert found.parts["retrieval"].startswith("no branch could answer: text_to_image: ")


def test_it_is_no_users_question(empty: Path) -> None:
    searched = retrieval(empty)
    searched.wait_for_stores()
    probed(searched)
    assert searched._drift._asked == {}
    asyncio.run(searched.search(Query("picture")))
    assert searched._drift._asked.keys() == {"text", "text_to_image"}


def test_a_replica_starts_with_an_index_of_nothing_and_with_a_store_lost(empty: Path) -> None:
    retrieval(empty).wait_for_stores()
    put(empty, DownStore(), "visual_knowledge", "text_knowledge")
    retrieval(empty).wait_for_stores()


def test_a_replica_without_any_store_does_not_start(empty: Path) -> None:
    put(empty, DownStore(), *STORES)
    with pytest.raises(StoreUnavailable, match="no branch could answer"):
        retrieval(empty).wait_for_stores()


def test_a_replica_starts_once_a_store_is_back(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Starting(MemoryLexicalStore):
        is_up = False

        def search(self, *args: Any, **kwargs: Any) -> list[Found]:
            return super().search(*args, **kwargs) if self.is_up else DownStore().search()

    words, waits = Starting(), []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        words.is_up = len(waits) == 3

    put(empty, DownStore(), *STORES)
    put(empty, words, "lexical")
    monkeypatch.setattr(patience.time, "sleep", sleep)
    retrieval(empty, patience_s=60).wait_for_stores()
    assert len(waits) == 3
