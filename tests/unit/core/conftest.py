"""Corpora of colours for the tests of retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import ColourModel, WordEmbedder, chunk_part
from memory_stores import MemoryLexicalStore, MemoryVectorStore
from retriever_world import World

from pipelines.core.cache import VectorCache
from pipelines.core.encoder import Encoder
from pipelines.core.retriever import Knowledge, SearchConfig


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    model, embedder = ColourModel(), WordEmbedder()
    encoder = Encoder(model)
    visual, text = MemoryVectorStore(encoder.dim), MemoryVectorStore(embedder.space.dim)
    lexical, cache = MemoryLexicalStore(), VectorCache(tmp_path / "cache.sqlite", "colours")
    knowledge = Knowledge(
        encoder=lambda: encoder,
        embedder=lambda: embedder,
        visual=lambda: visual,
        text=lambda: text,
        lexical=lambda: lexical,
        image_cache=lambda: cache,
        image_uri=lambda part: f"{part.tenant}/{part.id}",
    )
    made = World(knowledge, model, embedder, SearchConfig(alpha_text=0.5))
    yield made
    if made.retriever:
        made.retriever.close()
    cache.close()


@pytest.fixture
def garden(world: World) -> World:
    """Three pictures with a caption each, and a note about red that belongs to no picture."""
    world.add_pictures(rose="red", leaf="green", sea="blue")
    world.add_chunks(
        chunk_part("rose", "a red rose", images=[0]),
        chunk_part("leaf", "a green leaf", images=[0]),
        chunk_part("sea", "the blue sea", images=[0]),
        chunk_part("note", "red is the sign of warning"),
    )
    return world
