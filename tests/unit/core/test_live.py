"""A reader of an index that is rebuilt meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import ShelvedIndex, WordEmbedder, chunk_part, image_part, picture, shelved_index

from pipelines.core import live, near_duplicates
from pipelines.core.errors import SpaceMismatch, UsageError
from pipelines.core.files import replaced
from pipelines.core.live import LiveIndex
from pipelines.core.manifest import Manifest
from pipelines.core.retriever import Query, SearchConfig
from pipelines.core.types import SearchResult

OTHER_SCALES = (2, 4, 8)
WORDS = WordEmbedder()  # one for all: its axes are the words in the order in which it met them
BOTH = Query("red", image=picture("red"))


@pytest.fixture(autouse=True)
def _always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.0)


def build(directory: Path, scales: tuple[int, ...] = (2, 4)) -> str:
    """Write a generation that names itself in everything it holds, and make it the one that is read."""
    now = Manifest.find(directory, "index.json")
    generation = now.generation + 1 if now else 0
    name = f"of{generation}"
    with (
        shelved_index(directory, scales, WORDS, writable=True, building=bool(now)) as index,
        index.write_lock(),
    ):
        index.create(generation, replaces=now.generation if now else None)
        index.visual().upsert([image_part(name)], index.encoder().encode_asked(picture("red")))
        chunks = [chunk_part(name, "a red rose")]
        index.text().upsert(chunks, WORDS.embed_passages([chunk.text for chunk in chunks]))
        index.lexical().upsert(chunks)
        if now:
            index.publish()
    return name


def drop(directory: Path, generation: int) -> None:
    with shelved_index(directory, writable=True) as index:
        index.drop(generation)
        now = index.manifest()
        Manifest(now.space, now.text_space, {}, now.generation).save(directory)


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    build(tmp_path / "kb")
    return tmp_path / "kb"


@pytest.fixture
def reader(kb: Path) -> Iterator[LiveIndex]:
    opened = LiveIndex(shelved_index(kb, embedder=WORDS), SearchConfig())
    yield opened
    opened.close()


def found(result: SearchResult) -> set[str]:
    return {hit.document_id for hit in result.hits}


def test_a_reader_goes_over_to_the_new_generation(kb: Path, reader: LiveIndex) -> None:
    assert found(reader.search(BOTH)) == {"of0"}
    build(kb)
    result = reader.search(BOTH)
    assert (found(result), result.degraded) == ({"of1"}, ())
    drop(kb, 0)
    assert found(reader.search(BOTH)) == {"of1"}


def test_a_later_ingests_near_duplicates_collapse_without_a_restart(kb: Path) -> None:
    """It writes the report anew, in the same generation."""
    with shelved_index(kb, embedder=WORDS) as index:
        index.visual().upsert([image_part("copy")], index.encoder().encode_asked(picture("red")))
    reader = LiveIndex(shelved_index(kb, embedder=WORDS), SearchConfig(near_duplicates="collapse"))
    seen = Query(image=picture("red"))
    assert found(reader.search(seen)) == {"of0", "copy"}
    for like, left in (("copy", 1), ("other", 2)):
        row = {"tenant": "", "picture": "of0#img-0", "like": f"{like}#img-0"}
        with replaced(kb / near_duplicates.FILE) as beside:
            pq.write_table(pa.Table.from_pylist([row]), beside)
        assert len(reader.search(seen).hits) == left
    reader.close()


def test_it_looks_once_in_a_while_and_when_it_is_told(
    kb: Path, reader: LiveIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_EVERY_S", 3600.0)
    reader.search(BOTH)
    build(kb)
    assert found(reader.search(BOTH)) == {"of0"}
    reader.look()
    assert found(reader.search(BOTH)) == {"of1"}


def test_a_search_that_has_begun_stays_with_its_generation(kb: Path, reader: LiveIndex) -> None:
    with reader.opened() as (index, retriever):
        build(kb)
        assert found(reader.search(BOTH)) == {"of1"}
        assert found(retriever.search(BOTH)) == {"of0"}  # its stores are opened only now
        assert index.met().generation == 0


def test_an_index_is_closed_after_its_last_search_and_not_before(kb: Path, reader: LiveIndex) -> None:
    closed: list[int] = []
    with reader.opened() as (index, _):
        index.close = lambda: closed.append(index.met().generation)  # type: ignore[method-assign]
        build(kb)
        reader.search(BOTH)
        assert closed == []
    assert closed == [0]


def test_a_store_that_is_slow_to_close_holds_up_no_search(kb: Path, reader: LiveIndex) -> None:
    others: list[set[str]] = []

    def close() -> None:
        with ThreadPoolExecutor(1) as pool:
            others.append(found(pool.submit(reader.search, BOTH).result(60)))

    with reader.opened() as (index, _):
        index.close = close  # type: ignore[method-assign]
        build(kb)
    reader.search(BOTH)
    assert others == [{"of1"}]


def test_a_search_that_has_begun_ends_though_the_reader_is_closed_meanwhile(
    kb: Path, reader: LiveIndex
) -> None:
    closed: list[str] = []
    with reader.opened() as (index, retriever):
        index._stack.callback(closed.append, "first")
        reader.close()
        assert closed == []
        assert found(retriever.search(BOTH)) == {"of0"}
    assert closed == ["first"]


def test_a_search_that_comes_after_the_end_opens_the_index_for_itself(kb: Path, reader: LiveIndex) -> None:
    closed: list[str] = []
    reader.close()
    for name in ("one", "two"):
        with reader.opened() as (index, _):
            index._stack.callback(closed.append, name)
            assert found(reader.search(BOTH)) == {"of0"}
            assert name not in closed
        assert closed[-1] == name


def test_other_metadata_types_are_no_other_generation(kb: Path, reader: LiveIndex) -> None:
    reader.search(BOTH)
    before = reader.index
    with shelved_index(kb, writable=True) as writer:
        writer.with_metadata_types({"year": "number"})
    reader.search(BOTH)
    assert reader.index is before


def test_of_another_space_nothing_is_read_and_the_kept_generation_answers(
    kb: Path, reader: LiveIndex
) -> None:
    reader.search(BOTH)
    build(kb, OTHER_SCALES)
    result = reader.search(BOTH)
    assert found(result) == {"of0"}
    [told] = result.degraded
    assert told.startswith("index: it was rebuilt with other models")
    assert "restart" in told


def test_of_another_space_and_the_generation_before_dropped_it_says_to_restart(
    kb: Path, reader: LiveIndex
) -> None:
    reader.search(BOTH)
    build(kb, OTHER_SCALES)
    reader.search(BOTH)
    drop(kb, 0)
    for _ in range(2):
        with pytest.raises(
            SpaceMismatch, match=r"rebuilt with other models; restart.*scales: index \[2, 4, 8\]"
        ):
            reader.search(BOTH)
    build(kb)  # back to the models that this reader has
    assert found(reader.search(BOTH)) == {"of2"}


def test_a_reader_of_the_new_models_is_refused_before_the_swap_and_answers_after(kb: Path) -> None:
    reader = LiveIndex(shelved_index(kb, OTHER_SCALES, WORDS), SearchConfig())
    with pytest.raises(SpaceMismatch):
        reader.search(BOTH)
    build(kb, OTHER_SCALES)
    result = reader.search(BOTH)
    assert (found(result), result.degraded) == ({"of1"}, ())
    reader.close()


def test_no_index_is_told_until_there_is_one(tmp_path: Path) -> None:
    reader = LiveIndex(shelved_index(tmp_path / "kb", embedder=WORDS), SearchConfig())
    with pytest.raises(UsageError, match="no index"):
        reader.search(BOTH)
    build(tmp_path / "kb")
    assert found(reader.search(BOTH)) == {"of0"}
    reader.close()


def test_searches_in_many_threads_meet_one_generation_each(kb: Path, reader: LiveIndex) -> None:
    seen: list[set[str]] = []
    stop = threading.Event()

    def search() -> None:
        while not stop.is_set():
            result = reader.search(BOTH)
            assert result.degraded == ()
            seen.append(found(result))

    with ThreadPoolExecutor(4) as pool:
        searching = [pool.submit(search) for _ in range(4)]
        for _ in range(10):
            name = build(kb)
            searched = len(seen)
            while len(seen) < searched + 8 and not any(future.done() for future in searching):
                stop.wait(0.002)
        stop.set()
    for future in searching:
        future.result()
    assert all(len(documents) == 1 for documents in seen)
    assert seen[-1] == {name}


def test_a_reader_makes_no_store(kb: Path) -> None:
    drop(kb, 0)
    with shelved_index(kb) as index, pytest.raises(Exception, match="mmrag ingest"):
        index.visual()
    assert isinstance(index, ShelvedIndex)
    assert index.names() == set()
