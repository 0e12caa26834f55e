"""Both store protocols in plain memory: exact, and gone with the process."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from pipelines.core.errors import StoreError
from pipelines.core.filters import Filter, matches
from pipelines.core.stores import Vectors
from pipelines.core.stores.records import check_parts, check_vectors, last_of_each
from pipelines.core.types import Found, Part


class _Memory:
    def __init__(self) -> None:
        self._parts: dict[str, Part] = {}

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._parts.pop(key, None)

    def delete_documents(self, document_keys: Sequence[str], keep: Sequence[str] = ()) -> None:
        documents, kept = set(document_keys), set(keep)
        self.delete([k for k, p in self._parts.items() if p.document_key in documents and k not in kept])

    def fetch(self, keys: Sequence[str]) -> dict[str, Part]:
        return {key: self._parts[key] for key in keys if key in self._parts}

    def count(self) -> int:
        return len(self._parts)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class MemoryVectorStore(_Memory):
    """A VectorStore that compares the query with every vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self._vectors: dict[str, Vectors] = {}

    def vectors(self, keys: Sequence[str]) -> dict[str, Vectors]:
        return {key: self._vectors[key] for key in keys if key in self._parts}

    def scan(self) -> Iterator[tuple[list[Part], Vectors]]:
        if self._parts:
            yield list(self._parts.values()), np.stack([self._vectors[key] for key in self._parts])

    def has_content(self, content: str, tenant: str) -> bool:
        return any((part.content, part.tenant) == (content, tenant) for part in self._parts.values())

    def contents(self, among: Sequence[str]) -> set[str]:
        return set(among) & {part.content for part in self._parts.values()}

    def upsert(self, parts: Sequence[Part], vectors: Vectors) -> None:
        check_vectors(vectors, len(parts), self.dim)
        check_parts(parts)
        for key, position in last_of_each(parts).items():
            self._parts[key] = parts[position]
            self._vectors[key] = vectors[position].astype(np.float32)

    def search(self, vector: Vectors, k: int, where: Filter | None = None) -> list[Found]:
        check_vectors(vector[None], 1, self.dim)
        check_k(k)
        scored = [
            Found(part, float(self._vectors[key] @ vector))
            for key, part in self._parts.items()
            if where is None or matches(where, part)
        ]
        return sorted(scored, key=lambda found: -found.score)[:k]


class MemoryLexicalStore(_Memory):
    """A LexicalStore: BM25 over lower-case words and over each pair of neighbouring Chinese characters."""

    def upsert(self, parts: Sequence[Part]) -> None:
        check_parts(parts)
        self._parts.update({part.key: part for part in parts})

    def commit(self) -> None:
        """Nothing lasts."""

    def search(self, text: str, k: int, where: Filter | None = None) -> list[Found]:
        check_k(k)
        words = set(_words(text))
        counts = {key: Counter(_words(part.text, single=True)) for key, part in self._parts.items()}
        mean_length = sum(map(Counter.total, counts.values())) / (len(counts) or 1)
        weight = {
            word: math.log1p((len(counts) - n + 0.5) / (n + 0.5))
            for word in words
            if (n := sum(word in count for count in counts.values()))
        }
        scored = [
            Found(self._parts[key], _bm25(count, weight, mean_length))
            for key, count in counts.items()
            if weight.keys() & count and (where is None or matches(where, self._parts[key]))
        ]
        return sorted(scored, key=lambda found: -found.score)[:k]


def check_k(k: int) -> None:
    if k < 1:
        raise StoreError(f"k is {k}; ask for at least 1 hit")


_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"


def _words(text: str, *, single: bool = False) -> Iterable[str]:
    """English words and pairs of Chinese characters; with `single`, each character too."""
    for run in re.findall(f"[{_CJK}]+|[^\\W_{_CJK}]+", unicodedata.normalize("NFKC", text).lower()):
        if not re.match(f"[{_CJK}]", run):
            # An English plural finds its singular: the least stemming that the contract asks for.
            yield run[:-1] if len(run) > 3 and run.endswith("s") and not run.endswith("ss") else run
        else:
            yield from (run[i : i + 2] for i in range(len(run) - 1))
            yield from run if single or len(run) == 1 else ()


def _bm25(count: Counter[str], weight: dict[str, float], mean_length: float) -> float:
    """Okapi BM25 with k1 = 1.2 and b = 0.75."""
    norm = 1.2 * (0.25 + 0.75 * count.total() / (mean_length or 1))
    return sum(w * count[word] * 2.2 / (count[word] + norm) for word, w in weight.items())
