"""A LlamaIndex retriever: `pip install '.[llama-index]'` in a clone.

retriever = MmragRetriever(KnowledgeBase("kb"), k=5)
nodes = retriever.retrieve("Which cooler fits a flat case?")
nodes = retriever.retrieve(QueryBundle("the same, smaller", image_path="cooler.jpg"))
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import ImageNode, NodeWithScore, QueryBundle, TextNode

from pipelines.core.retriever import Mode
from pipelines.core.types import Hit
from pipelines.integrations.metadata import id_of, metadata_of, ours_of
from pipelines.knowledge_base import KnowledgeBase, Where


class MmragRetriever(BaseRetriever):
    """Hits as nodes, best first: pictures as ImageNodes. A query's picture is read from its `image_path`.
    `where` is a filter or values, and errors are raised, as of `KnowledgeBase.search`."""

    def __init__(
        self, knowledge_base: KnowledgeBase, k: int = 10, mode: Mode = "auto", where: Where | None = None
    ) -> None:
        super().__init__()
        self._knowledge_base, self._k, self._mode, self._where = knowledge_base, k, mode, where

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        image = Path(query_bundle.image_path) if query_bundle.image_path else None
        text = query_bundle.query_str or None
        result = self._knowledge_base.search(text, image, mode=self._mode, k=self._k, where=self._where)
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in result.hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        """LlamaIndex's own would search in the event loop."""
        return await asyncio.to_thread(self._retrieve, query_bundle)


class _PictureNode(ImageNode):
    """Fusion tells nodes apart by a hash; ImageNode's is the picture's, which two documents may show."""

    @property
    def hash(self) -> str:
        return sha256(self.node_id.encode("utf-8", "surrogatepass")).hexdigest()


def _node(hit: Hit) -> TextNode:
    """Models are shown the document's own metadata: no paths, and no hashes."""
    known: dict[str, Any] = {"id_": id_of(hit), "text": hit.text, "metadata": metadata_of(hit)}
    known |= {key: [*ours_of(hit)] for key in ("excluded_llm_metadata_keys", "excluded_embed_metadata_keys")}
    if hit.kind != "image" or hit.image_uri is None:
        return TextNode(**known)
    return _PictureNode(image_path=unquote(urlsplit(hit.image_uri).path), **known)
