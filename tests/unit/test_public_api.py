"""`from pipelines import ...`: which names there are, what they load, and a knowledge base at work."""

from __future__ import annotations

import ast
import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fakes import WordEmbedder, chunk_part, image_part, memory_index, picture, shelved_index
from test_architecture import loaded_by

import pipelines
from pipelines import (
    Answer,
    BadImage,
    KnowledgeBase,
    Query,
    Question,
    Retrieved,
    Said,
    UsageError,
    knowledge_base,
    load_settings,
)
from pipelines.core import images
from pipelines.core.index import Index
from pipelines.core.live import LiveIndex
from pipelines.core.previews import save_preview
from pipelines.core.types import PlacedBox

PACKAGE = Path(pipelines.__file__).parent
ROSE = "ab" * 32


def test_importing_it_loads_nothing_heavy() -> None:
    assert not loaded_by("import pipelines") & {"ray", "torch", "transformers", "numpy", "pydantic", "typer"}


def test_a_knowledge_base_loads_neither_ray_nor_torch() -> None:
    program = "from pipelines import KnowledgeBase, load_settings; KnowledgeBase('kb', load_settings())"
    assert not loaded_by(program) & {"ray", "torch", "transformers", "pymilvus", "tantivy"}


def test_type_checkers_see_the_names_that_there_are() -> None:
    """The block for type checkers, the table that loads, and `__all__` name the same."""
    [block] = [
        node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If)
    ]
    typed = {
        str(node.module).removeprefix("pipelines."): tuple(alias.name for alias in node.names)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    }
    assert typed == pipelines._MODULES
    assert sorted(name for names in typed.values() for name in names) == pipelines.__all__


def test_every_name_is_where_the_table_says() -> None:
    for module, names in pipelines._MODULES.items():
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        assert defined >= set(names)


def test_a_name_that_is_not_there_is_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Knowledge'"):
        _ = pipelines.Knowledge


@pytest.fixture
def kb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
    """Over stores in memory: a red picture with its text."""
    index = memory_index(tmp_path / "kb")
    index.with_metadata_types({"year": "number", "colour": "str"})
    save_preview(index.previews, ROSE, images.decode(picture("red", side=40)))
    metadata = {"year": 2020, "colour": 'a "red" one'}
    red = np.array([[1, 0, 0, 1, 0, 0]], np.float32) / np.sqrt(2, dtype=np.float32)
    index.visual().upsert([image_part("rose", metadata=metadata, content=ROSE)], red)
    chunks = [chunk_part("rose", "a red rose", images=[0], metadata=metadata)]
    index.text().upsert(chunks, index.embedder().embed_passages([chunk.text for chunk in chunks]))
    index.lexical().upsert(chunks)

    def reopened(directory: Path, config: object) -> Index:
        assert directory.absolute() == index.directory
        return index

    monkeypatch.setattr(knowledge_base, "Index", reopened)
    return KnowledgeBase(index.directory)


def test_an_address_is_no_knowledge_base() -> None:
    with pytest.raises(UsageError, match="index s3://bucket/kb: is an address"):
        KnowledgeBase("s3://bucket/kb")


def test_a_knowledge_base_searches_and_filters(kb: KnowledgeBase) -> None:
    with kb:
        assert [hit.id for hit in kb.search("red", where="year >= 2020").hits] == ["rose#img-0"]
        assert kb.search("red", where="year > 2020").hits == ()
        with pytest.raises(UsageError, match="did you mean year"):
            kb.search("red", where="yeer > 2020")


def test_it_opens_anew_after_it_was_closed(kb: KnowledgeBase) -> None:
    for _ in range(2):
        assert kb.search("red", k=1).hits
        kb.close()


def test_threads_search_on_while_one_ingests_and_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = WordEmbedder()
    with shelved_index(tmp_path, embedder=words, writable=True) as index, index.write_lock():
        index.create()
        index.visual().upsert([image_part("rose")], index.encoder().encode_asked(picture("red")))
        chunks = [chunk_part("rose", "a red rose", images=[0])]
        index.text().upsert(chunks, words.embed_passages(["a red rose"]))
        index.lexical().upsert(chunks)
    monkeypatch.setattr(knowledge_base, "Index", lambda where, _: shelved_index(where, embedder=words))
    made, closed = list[LiveIndex](), list[LiveIndex]()

    class Watched(LiveIndex):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

        def close(self) -> None:
            super().close()
            closed.append(self)

    monkeypatch.setattr(knowledge_base, "LiveIndex", Watched)
    kb, seen, stop = KnowledgeBase(tmp_path), list[str](), threading.Event()

    def search() -> None:
        while not stop.is_set():
            result = kb.search("red")
            assert result.degraded == ()
            seen.extend(hit.id for hit in result.hits)

    def see_more(*_: object, **__: object) -> None:
        """Until all threads have searched, or one has failed."""
        before = len(seen)
        while len(seen) < before + 8 and not any(future.done() for future in searching):
            stop.wait(0.002)

    job = ModuleType("pipelines.ingest.job")  # the real one is on Ray
    job.ingest = see_more  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, job.__name__, job)
    with ThreadPoolExecutor(4) as pool:
        searching = [pool.submit(search) for _ in range(4)]
        for _ in range(10):
            kb.ingest(["corpus"])
            kb.close()
            see_more()
        stop.set()
    for future in searching:
        future.result()
    assert set(seen) == {"rose#img-0"}
    kb.close()
    assert len(closed) == len(made) == len({*closed, *made}) > 1


def test_what_finds_no_evidence_is_answered_so(kb: KnowledgeBase) -> None:
    answer = kb.ask("Which voltage does the pump need?", where="year > 2020")
    assert answer.refused
    assert answer.citations == ()


def test_an_answerer_streams_its_evidence_its_words_and_the_answer(kb: KnowledgeBase) -> None:
    async def events() -> list[Retrieved | Said | Answer]:
        return [event async for event in kb.answerer().stream(Question(Query("Which colour is it?")))]

    with kb:
        evidence, *words, answer = asyncio.run(events())
    assert isinstance(evidence, Retrieved)
    assert [hit.citation_id for hit in evidence.hits] == [1]
    assert isinstance(answer, Answer)
    assert "".join(said.text for said in words if isinstance(said, Said)).strip() == answer.answer


def test_vllm_is_for_the_server(kb: KnowledgeBase) -> None:
    kb.settings = load_settings(None, ["generator.engine=vllm"])
    with pytest.raises(UsageError, match="mmrag serve"):
        kb.ask("red")


def test_a_filter_of_values_takes_them_as_they_are(kb: KnowledgeBase) -> None:
    with kb:
        assert kb.search("red", where={"year": 2020, "colour": 'a "red" one'}).hits
        assert kb.search("red", where={"colour": 'x" or year > 0 or colour == "x'}).hits == ()
        with pytest.raises(UsageError, match="holds strings"):
            kb.search("red", where={"colour": 1})
        with pytest.raises(UsageError, match="did you mean colour"):
            kb.search("red", where={"color": "red"})


def test_a_hits_picture_is_the_indexs_preview(kb: KnowledgeBase) -> None:
    with kb:
        [hit] = kb.search("red", k=1).hits
        shown = kb.picture(hit)
        assert shown is not None
        assert images.decode(shown).image.size == (40, 40)
        assert kb.picture(replace(hit, image_uri=None)) is None


def test_a_picture_is_given_as_bytes_or_as_where_its_file_is(kb: KnowledgeBase, tmp_path: Path) -> None:
    file = tmp_path / "asked.png"
    file.write_bytes(picture("red"))
    with kb:
        expected = kb.search(image=picture("red"), mode="visually_similar")
        assert expected.hits
        for given in (file, str(file)):
            assert kb.search(image=given, mode="visually_similar") == expected


@pytest.mark.parametrize("given", ["nowhere.png", "", "a\0b.png", "data:image/png;base64," + "A" * 9000])
def test_a_picture_that_is_not_there_is_told_in_few_words(kb: KnowledgeBase, given: str) -> None:
    with kb, pytest.raises(BadImage, match=r"cannot be read: ") as told:
        kb.search(image=given)
    assert len(str(told.value)) < 300


def test_a_file_that_is_larger_than_any_picture_is_not_read_whole(
    kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.png").write_bytes(picture("red"))
    monkeypatch.setattr(images, "MAX_BYTES", 9)
    with kb, pytest.raises(BadImage, match=r"large\.png: has more than the 9 bytes allowed"):
        kb.search(image=str(tmp_path / "large.png"))


def test_a_value_that_nothing_equals_is_told_with_its_field(kb: KnowledgeBase) -> None:
    with kb, pytest.raises(UsageError, match="year is to equal None"):
        kb.search("red", where={"year": None})  # type: ignore[dict-item]


def test_an_answers_boxes_are_drawn_on_its_pictures(kb: KnowledgeBase) -> None:
    with kb:
        hits = kb.search("red", k=1).hits
        boxes = (PlacedBox(1, (10, 10, 30, 30), ""), PlacedBox("query", (2, 2, 6, 6), ""))
        answer = Answer("", (), boxes, hits, (), {})
        marked = kb.marked(answer, picture("blue", side=9))
        assert {which: image.size for which, image in marked.items()} == {1: (40, 40), "query": (9, 9)}
        assert marked[1].getpixel((20, 20)) != marked[1].getpixel((10, 20))
        with pytest.raises(BadImage):
            kb.marked(answer, b"no picture")


def test_a_picture_is_read_only_where_the_settings_name_a_reader(kb: KnowledgeBase) -> None:
    with pytest.raises(UsageError, match=r"ingest\.ocr\.kind is none"):
        kb.read(picture("red"))
