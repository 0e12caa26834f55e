"""A small corpus in memory and a retriever over it: what tests of retrieval share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fakes import COLOURS, ColourModel, WordEmbedder, image_part, picture

from pipelines.core.retriever import Knowledge, Query, Retriever, SearchConfig
from pipelines.core.types import Part, SearchResult

RED = picture("red")


@dataclass
class World:
    """A small corpus, and a retriever over it. A test may put another store in a place."""

    knowledge: Knowledge
    model: ColourModel
    embedder: WordEmbedder
    config: SearchConfig
    retriever: Retriever | None = None

    def add_pictures(self, **colour_of: str) -> None:
        for document, colour in colour_of.items():
            self.add_picture(image_part(document), colour)

    def add_picture(self, part: Part, colour: str) -> None:
        vector = np.tile(np.array(COLOURS[colour], np.float32) / 255, 2) / np.sqrt(2)
        self.knowledge.visual().upsert([part], vector[None].astype(np.float32))

    def add_chunks(self, *parts: Part) -> None:
        self.knowledge.text().upsert(parts, self.embedder.embed_passages([part.text for part in parts]))
        self.knowledge.lexical().upsert(parts)

    def put(self, **places: Any) -> None:
        loaders = {name: (lambda store=store: store) for name, store in places.items()}
        self.knowledge = replace(self.knowledge, **loaders)

    def search(self, text: str | None = None, **fields: Any) -> SearchResult:
        if self.retriever is None:
            self.retriever = Retriever(self.knowledge, self.config)
        return self.retriever.search(Query(text, **fields))


def ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]
