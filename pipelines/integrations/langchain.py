"""A LangChain retriever: `pip install '.[langchain]'` in a clone.

retriever = MmragRetriever(knowledge_base=KnowledgeBase("kb"), k=5)
documents = retriever.invoke("Which cooler fits a flat case?")
"""

from __future__ import annotations

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from pipelines.core.retriever import MAX_K, Mode
from pipelines.integrations.metadata import found_by, id_of, metadata_of
from pipelines.knowledge_base import KnowledgeBase, Where


class MmragRetriever(BaseRetriever):
    """Hits as Documents, best first: a picture's text is its caption or the passage that found it. `where` is
    a filter or values, and errors are raised, as of `KnowledgeBase.search`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    knowledge_base: KnowledgeBase
    k: int = Field(10, ge=1, le=MAX_K)
    mode: Mode = "auto"
    where: Where | None = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        result = self.knowledge_base.search(query, mode=self.mode, k=self.k, where=self.where)
        return [
            Document(id=id_of(hit), page_content=hit.text, metadata=metadata_of(hit) | found_by(hit))
            for hit in result.hits
        ]
