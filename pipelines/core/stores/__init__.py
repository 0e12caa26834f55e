"""What the rest of the system asks of a store. The vendors live in the modules beside this one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.core.filters import Filter
from pipelines.core.types import Found, Part

Vectors = NDArray[np.float32]


class _Store(Protocol):
    def delete(self, keys: Sequence[str]) -> None:
        """Delete parts by key. A key that is not there is no error."""

    def delete_documents(self, document_keys: Sequence[str], keep: Sequence[str] = ()) -> None:
        """Delete all parts of these documents, except the part keys in `keep`."""

    def fetch(self, keys: Sequence[str]) -> dict[str, Part]:
        """The parts with these keys, by key; a missing one is left out."""

    def count(self) -> int:
        """Number of parts, including every acknowledged write."""

    def flush(self) -> None:
        """Make acknowledged writes durable, searchable and fast to search. Call after a load."""

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class VectorStore(_Store, Protocol):
    """One collection: parts with one vector each, compared by inner product.

    Every method raises StoreUnavailable when the server does not answer, StoreError when it refuses.
    """

    dim: int

    def upsert(self, parts: Sequence[Part], vectors: Vectors) -> None:
        """Insert or replace. `vectors` is (len(parts), dim); NaN, infinity or a wrong shape raises
        StoreError before anything is written."""

    def search(self, vector: Vectors, k: int, where: Filter | None = None) -> list[Found]:
        """The k parts nearest to `vector` (dim,) among those that match `where`, best first."""

    def vectors(self, keys: Sequence[str]) -> dict[str, Vectors]:
        """The vectors (dim,) of the parts with these keys, by key; a missing one is left out."""

    def scan(self) -> Iterator[tuple[list[Part], Vectors]]:
        """Every part once, in batches with their vectors (n, dim), in no order. What is written or deleted
        meanwhile may be in it or not."""

    def has_content(self, content: str, tenant: str) -> bool:
        """Whether a part of this tenant has this content hash."""

    def contents(self, among: Sequence[str]) -> set[str]:
        """Those of these content hashes that a part of any tenant has, by all that was flushed."""


class LexicalStore(_Store, Protocol):
    """Chunks searched by words (BM25), Chinese and English."""

    def upsert(self, parts: Sequence[Part]) -> None:
        """Insert or replace. Raises PartsRefused once all others are written, for those that the server will
        never take for what is in them."""

    def commit(self) -> None:
        """Make acknowledged writes durable. Cheaper than `flush`, after which a search sees them too."""

    def search(self, text: str, k: int, where: Filter | None = None) -> list[Found]:
        """The k best matches for the words of `text`; [] when it has no searchable word. Any
        punctuation or query syntax in `text` is plain text."""
