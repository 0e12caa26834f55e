"""What a search says where a branch fails, is late, or cannot take the question."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import DownStore, chunk_part, picture
from memory_stores import MemoryVectorStore
from retriever_world import World, ids

from pipelines.core import retriever
from pipelines.core.cache import VectorCache
from pipelines.core.errors import BadImage, StoreError, StoreUnavailable
from pipelines.core.retriever import SearchConfig
from pipelines.core.types import Found


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Ends what hangs."""
    event = threading.Event()
    yield event
    event.set()


class Hanging(MemoryVectorStore):
    def __init__(self, over: threading.Event) -> None:
        super().__init__(dim=0)
        self.over = over

    def search(self, *args: Any, **kwargs: Any) -> list[Found]:
        self.over.wait(60)
        return []

    fetch = search  # type: ignore[assignment]


def test_a_branch_whose_store_is_down_is_named_and_the_others_answer(garden: World) -> None:
    garden.put(lexical=DownStore())
    result = garden.search("red")
    assert ids(result)[0] == "rose#img-0"
    [message] = result.degraded
    assert message.startswith("lexical: http://127.0.0.1:9")


def test_a_broken_cache_costs_time_and_no_answer(garden: World, tmp_path: Path) -> None:
    expected = garden.search(image=picture("red"))
    (tmp_path / "broken.sqlite").write_bytes(b"no database" * 100)
    garden.put(image_cache=VectorCache(tmp_path / "broken.sqlite", "colours"))
    assert garden.retriever
    garden.retriever.close()
    garden.retriever = None  # another process, which remembers no picture
    assert garden.search(image=picture("red")) == expected


def test_a_branch_that_failed_leaves_its_weight_to_its_side(garden: World) -> None:
    garden.put(lexical=DownStore())
    garden.config = garden.config.model_copy(update={"fusion": "ranks"})
    assert garden.search("red").hits[0].score == pytest.approx(0.5 / 61 + 0.5 / 61)


def test_without_the_picture_store_a_linked_chunk_stands_for_itself(garden: World) -> None:
    garden.put(visual=DownStore())
    result = garden.search("red")
    assert ids(result)[:2] == ["rose#txt-0", "note#txt-0"]
    assert [message.split(":")[0] for message in result.degraded] == [
        "text_to_image",
        "pictures of passages",
    ]


def test_when_every_branch_is_down_the_search_fails(garden: World) -> None:
    garden.put(lexical=DownStore(), text=DownStore(), visual=DownStore())
    with pytest.raises(StoreUnavailable, match=r"no branch could answer: text_to_image: .*lexical: "):
        garden.search("red")


def test_a_store_that_refuses_the_search_is_an_error_not_a_degradation(garden: World) -> None:
    garden.put(text=MemoryVectorStore(dim=2))
    with pytest.raises(StoreError, match="shape"):
        garden.search("red")


def test_a_branch_that_does_not_end_is_left_behind_at_the_deadline(
    garden: World, over: threading.Event
) -> None:
    garden.put(lexical=Hanging(over))
    garden.config = SearchConfig(branch_timeout_s=0.5)
    result = garden.search("red")
    assert result.degraded == ("lexical: no answer within 0.5 s",)
    assert ids(result)[0] == "rose#img-0"


def test_a_store_that_hangs_takes_no_thread_of_the_others(
    garden: World, over: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retriever, "_THREADS", 8)
    garden.put(lexical=Hanging(over))
    garden.config = SearchConfig(branch_timeout_s=0.3)
    told = []
    for _ in range(20):
        result = garden.search("red")
        assert ids(result)[0] == "rose#img-0"
        told += result.degraded
    assert told[0] == "lexical: no answer within 0.3 s"
    assert told[-1] == "lexical: still busy with earlier questions"
    assert len(told) == 20
    over.set()
    deadline = time.monotonic() + 60
    while garden.search("red").degraded and time.monotonic() < deadline:
        pass
    assert garden.search("red").degraded == ()


def test_a_picture_store_that_hangs_costs_pictures_and_not_the_answer(
    garden: World, over: threading.Event
) -> None:
    garden.put(visual=Hanging(over))
    garden.config = SearchConfig(branch_timeout_s=0.4)
    result = garden.search("red")
    assert ids(result)[:2] == ["rose#txt-0", "note#txt-0"]
    assert result.degraded == (
        "text_to_image: no answer within 0.4 s",
        "pictures of passages: no answer within 0.1 s",
    )


def test_a_question_may_wait_less_than_the_settings_say(garden: World, over: threading.Event) -> None:
    garden.put(lexical=Hanging(over))
    assert garden.search("red", timeout_s=0.2).degraded == ("lexical: no answer within 0.2 s",)


def test_a_language_that_the_text_tower_cannot_read_is_said_not_searched(garden: World) -> None:
    garden.add_chunks(chunk_part("chinese", "红色的花"))
    result = garden.search("红色")
    assert result.degraded == ("text_to_image: colours does not read the language of the question",)
    assert "text_to_image" not in {branch for hit in result.hits for branch in hit.sources}
    assert ids(result)[0] == "chinese#txt-0"


def test_mean_pooled_pictures_cannot_be_found_by_text(garden: World) -> None:
    garden.model.pooling = "mean"
    [message] = garden.search("red").degraded
    assert message == "text_to_image: this index has no text-to-picture space (pooling mean)"


def test_a_query_picture_that_is_none_is_an_error_of_the_query(garden: World) -> None:
    with pytest.raises(BadImage):
        garden.search(image=b"not a picture")
