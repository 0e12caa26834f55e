"""mmrag: multimodal retrieval-augmented generation on Ray.

    from pipelines import KnowledgeBase

    with KnowledgeBase("kb") as kb:
        kb.ingest(["~/pictures", "products.jsonl"])
        print(kb.search("the cooler for a flat case").hits[0].id)
        print(kb.ask("Which voltage does the pump need?").answer)

The names in `__all__` are the public API: within a minor version they stay, and the changelog announces a
change one minor version ahead. Everything else may change. Each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.core.answer import Answerer, Question, Retrieved, Said
    from pipelines.core.errors import BadImage, MmragError, StoreUnavailable, UsageError
    from pipelines.core.retriever import Query
    from pipelines.core.types import Answer, Hit, Line, SearchResult
    from pipelines.ingest.summary import Summary
    from pipelines.knowledge_base import KnowledgeBase
    from pipelines.settings import Settings, load_settings
    from pipelines.train.aligner_config import AlignerTraining
    from pipelines.train.aligner_job import train_aligner
    from pipelines.train.encoder_config import EncoderTraining
    from pipelines.train.job import train_encoder
    from pipelines.train.llava_config import LlavaTraining, LoraSettings
    from pipelines.train.llava_export import LlavaExport, export_llava
    from pipelines.train.llava_job import LlavaSummary, train_llava

__version__ = "0.1.0"
__all__ = [
    "AlignerTraining",
    "Answer",
    "Answerer",
    "BadImage",
    "EncoderTraining",
    "Hit",
    "KnowledgeBase",
    "Line",
    "LlavaExport",
    "LlavaSummary",
    "LlavaTraining",
    "LoraSettings",
    "MmragError",
    "Query",
    "Question",
    "Retrieved",
    "Said",
    "SearchResult",
    "Settings",
    "StoreUnavailable",
    "Summary",
    "UsageError",
    "export_llava",
    "load_settings",
    "train_aligner",
    "train_encoder",
    "train_llava",
]

_MODULES = {
    "core.answer": ("Answerer", "Question", "Retrieved", "Said"),
    "core.errors": ("BadImage", "MmragError", "StoreUnavailable", "UsageError"),
    "core.retriever": ("Query",),
    "core.types": ("Answer", "Hit", "Line", "SearchResult"),
    "ingest.summary": ("Summary",),
    "knowledge_base": ("KnowledgeBase",),
    "settings": ("Settings", "load_settings"),
    "train.aligner_config": ("AlignerTraining",),
    "train.aligner_job": ("train_aligner",),
    "train.encoder_config": ("EncoderTraining",),
    "train.job": ("train_encoder",),
    "train.llava_config": ("LlavaTraining", "LoraSettings"),
    "train.llava_export": ("LlavaExport", "export_llava"),
    "train.llava_job": ("LlavaSummary", "train_llava"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"pipelines.{module}"), name)
    raise AttributeError(f"module 'pipelines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
