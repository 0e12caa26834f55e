"""How near an answer comes to its references in meaning, by an embedder of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.core.embedder import Embedder


@dataclass(frozen=True, slots=True)
class Semantic:
    embedder: Embedder

    @property
    def instrument(self) -> str:
        return f"{self.embedder.space.model}, {self.embedder.space.revision}"

    def similarity(self, answer: str, references: Sequence[str]) -> float:
        """The cosine of the answer and the reference that is nearest, 0 to 1; 0 for an answer without words,
        and for one that points away. It is semantic answer similarity by a bi-encoder (Risch et al., Semantic
        Answer Similarity for Evaluating Question Answering Models, 2021, arXiv 2108.06130).

        Comparable under one embedder only. It reads what a text is about, not whether its number is right.
        """
        if not answer.strip():
            return 0.0
        said, *wanted = self.embedder.embed_passages([answer, *references])
        return float(max(0.0, *(said @ one for one in wanted)))
