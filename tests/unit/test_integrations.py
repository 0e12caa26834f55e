"""A knowledge base as a retriever of LangChain and of LlamaIndex: the real packages, stores in memory."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import chunk_part, image_part, memory_index, picture
from llama_index.core.schema import ImageNode, MetadataMode, QueryBundle, TextNode
from pydantic import ValidationError
from test_architecture import loaded_by

from pipelines import KnowledgeBase, SearchResult, UsageError, knowledge_base
from pipelines.core.errors import BadImage, FilterError
from pipelines.core.index import Index
from pipelines.core.types import store_key
from pipelines.integrations import langchain, llama_index


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """A red picture with its caption, and a passage without pictures."""
    index = memory_index(tmp_path / "kb")
    index.with_metadata_types({"year": "number"})
    red = np.array([[1, 0, 0, 1, 0, 0]], np.float32) / np.sqrt(2, dtype=np.float32)
    index.visual().upsert([image_part("rose", metadata={"year": 2020})], red)
    chunks = [
        chunk_part("rose", "a red rose", images=[0], metadata={"year": 2020}),
        chunk_part("leaf", "a green leaf", metadata={"year": 2024}),
    ]
    index.text().upsert(chunks, index.embedder().embed_passages([chunk.text for chunk in chunks]))
    index.lexical().upsert(chunks)
    return index


@pytest.fixture
def kb(index: Index, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
    monkeypatch.setattr(knowledge_base, "Index", lambda directory, config: index)
    return KnowledgeBase(index.directory)


def test_importing_the_package_needs_no_framework() -> None:
    assert not loaded_by("import pipelines.integrations") & {"langchain_core", "llama_index"}


def test_langchain_gets_documents(kb: KnowledgeBase) -> None:
    retriever = langchain.MmragRetriever(knowledge_base=kb, k=2)
    rose, leaf = retriever.invoke("red rose or green leaf")
    assert {rose.id, leaf.id} == {"rose#img-0", "leaf#txt-0"}
    [found] = [one for one in (rose, leaf) if one.id == "rose#img-0"]
    assert found.page_content == "a red rose"
    assert found.metadata["kind"] == "image"
    assert found.metadata["year"] == 2020
    assert found.metadata["image_uri"].startswith("file:")
    assert [rose.metadata["score"], leaf.metadata["score"]] == sorted(
        [rose.metadata["score"], leaf.metadata["score"]], reverse=True
    )


def test_equal_ids_of_two_tenants_are_two_documents(kb: KnowledgeBase, index: Index) -> None:
    ours = [chunk_part("leaf", f"a leaf of {tenant}", tenant=tenant) for tenant in ("acme", "umbra")]
    index.text().upsert(ours, index.embedder().embed_passages([chunk.text for chunk in ours]))
    wanted = {("acme", "a leaf of acme"), ("umbra", "a leaf of umbra"), ("", "a green leaf")}
    documents = langchain.MmragRetriever(knowledge_base=kb).invoke("leaf")
    leaves = [one for one in documents if one.metadata["document_id"] == "leaf"]
    assert {(one.metadata["tenant"], one.page_content) for one in leaves} == wanted
    assert len({one.id for one in leaves}) == 3
    nodes = [one.node for one in llama_index.MmragRetriever(kb).retrieve("leaf")]
    assert {(n.metadata["tenant"], n.text) for n in nodes if n.metadata["document_id"] == "leaf"} == wanted


def test_langchain_filters_and_waits_in_an_event_loop(kb: KnowledgeBase) -> None:
    retriever = langchain.MmragRetriever(knowledge_base=kb, where="year > 2020")
    assert [one.id for one in asyncio.run(retriever.ainvoke("rose leaf"))] == ["leaf#txt-0"]
    retriever = langchain.MmragRetriever(knowledge_base=kb, where={"year": 2024})
    assert [one.id for one in retriever.invoke("rose leaf")] == ["leaf#txt-0"]
    with pytest.raises(UsageError, match="empty"):
        retriever.invoke(" ")
    with pytest.raises(ValidationError, match="k"):
        langchain.MmragRetriever(knowledge_base=kb, k=0)


def test_llama_index_gets_nodes_and_pictures_as_image_nodes(kb: KnowledgeBase) -> None:
    retriever = llama_index.MmragRetriever(kb, k=2)
    found = {one.node.id_: one for one in retriever.retrieve("red rose or green leaf")}
    rose, leaf = found["rose#img-0"].node, found["leaf#txt-0"].node
    assert isinstance(rose, ImageNode)
    assert rose.image_path is not None
    assert rose.image_path.startswith("/")
    assert rose.metadata["year"] == 2020
    assert type(leaf) is TextNode
    assert leaf.get_content() == "a green leaf"
    assert found["rose#img-0"].score is not None


def test_a_hit_of_two_searches_is_one_node_and_two_documents_with_one_picture_are_two(
    kb: KnowledgeBase, index: Index
) -> None:
    """Fusion tells nodes apart by their hashes."""

    def hashes(query: str, **options: Any) -> dict[str, str]:
        nodes = [one.node for one in llama_index.MmragRetriever(kb, **options).retrieve(query)]
        return {node.node_id: node.hash for node in nodes}

    [rose] = index.visual().fetch([store_key("", "rose#img-0")]).values()
    twin = replace(rose, document_id="twin", id="twin#img-0")
    index.visual().upsert([twin], index.visual().vectors([rose.key])[rose.key][None])
    caption = chunk_part("twin", "a red rose", images=[0], metadata={"year": 2020})
    index.text().upsert([caption], index.embedder().embed_passages([caption.text]))
    one, other = hashes("red rose or green leaf"), hashes("a leaf", where={"kind": "chunk"})
    assert one["leaf#txt-0"] == other["leaf#txt-0"]
    assert one.keys() >= {"rose#img-0", "twin#img-0"}
    assert one["rose#img-0"] != one["twin#img-0"]


def test_a_model_is_shown_the_documents_own_metadata_alone(kb: KnowledgeBase) -> None:
    for one in llama_index.MmragRetriever(kb).retrieve("red rose or green leaf"):
        shown = one.node.get_content(metadata_mode=MetadataMode.LLM)
        assert "year: 20" in shown
        assert not any(f"{name}:" in shown for name in ("id", "source", "image_uri", "tenant", "score"))


def test_what_cannot_be_searched_is_told_by_errors_of_ours(kb: KnowledgeBase, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mode is 'looks_like'"):
        kb.search("a rose", mode="looks_like")  # type: ignore[arg-type]
    with pytest.raises(BadImage, match=r"nowhere\.png cannot be read: No such file"):
        kb.search(image=tmp_path / "nowhere.png")
    with pytest.raises(FilterError, match="names no field"):
        kb.search("a rose", where={})


def test_llama_index_asks_with_a_picture(kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "asked.png").write_bytes(picture("red"))
    asked = QueryBundle("", image_path=str(tmp_path / "asked.png"))
    [first, *_] = llama_index.MmragRetriever(kb, mode="visually_similar").retrieve(asked)
    assert first.node.id_ == "rose#img-0"


def test_an_event_loop_goes_on_while_either_searches(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, search = [], kb.search

    def watched(*args: Any, **options: Any) -> SearchResult:
        threads.append(threading.current_thread())
        return search(*args, **options)

    monkeypatch.setattr(kb, "search", watched)
    [node, *_] = asyncio.run(llama_index.MmragRetriever(kb, k=2).aretrieve("red rose"))
    [document, *_] = asyncio.run(langchain.MmragRetriever(knowledge_base=kb, k=2).ainvoke("red rose"))
    assert node.node.id_ == document.id == "rose#img-0"
    assert len(threads) == 2
    assert threading.main_thread() not in threads
