"""Where an index keeps its stores: in the servers that the settings name, else in its directory. Opens and
drops them there. Knows no model.

    DIR/vectors/NAME    an embedded vector server, one a collection
    DIR/lexical         the embedded lexical index

What belongs to a later generation is `named` with its number.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.core.errors import StoreError
from pipelines.core.identity import identity
from pipelines.core.manifest import named
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.core.stores.config import MilvusConfig, StoresConfig

VISUAL, TEXT = "visual_knowledge", "text_knowledge"


class StorePlaces:
    """The stores of the index in `directory`. Whoever opens one closes it."""

    def __init__(self, directory: Path, config: StoresConfig) -> None:
        self._directory = directory
        self._milvus, self._elastic = config.milvus, config.elastic
        self._attached: dict[str, str] = {}  # by collection, the URIs of embedded servers

    def vectors(
        self, base: str, generation: int, dim: int, *, create: bool, expected_rows: int
    ) -> VectorStore:
        """The collection, which is made for `expected_rows` if it is not there and `create` says so; else
        that raises StoreError."""
        from pipelines.core.stores.milvus import MilvusStore

        collection = named(base, generation)
        return MilvusStore.open(
            self._milvus or self._embedded(collection, create),
            collection,
            dim,
            create=create,
            expected_rows=expected_rows,
            owner=identity(self._directory),
        )

    def is_served(self, base: str, generation: int) -> bool:
        """Whether a collection's server is the one that was opened, as far as it is in our hands: an embedded
        one that was killed is not, unless its data are gone, too."""
        from pipelines.core.stores.embedded import serves

        collection = named(base, generation)
        uri, directory = self._attached.get(collection), self._vectors_at(collection)
        return uri is None or not directory.is_dir() or serves(directory, uri)

    def lexical(self, generation: int, *, writable: bool, create: bool) -> LexicalStore:
        """As `vectors`. An embedded one is only written where it is opened as `writable`."""
        if self._elastic is not None:
            from pipelines.core.stores.elastic import ElasticStore

            name = named(TEXT, generation)
            return ElasticStore.open(self._elastic, name, create=create, owner=identity(self._directory))
        from pipelines.core.stores.tantivy import TantivyStore

        directory = self._lexical_at(generation)
        if writable and not create:
            TantivyStore.open(directory, writable=False).close()  # raises where there is none
        return TantivyStore.open(directory, writable=writable)

    def drop(self, generation: int) -> None:
        """Delete the stores of a generation. May be repeated. Raises StoreUnavailable and StoreError."""
        for base in (VISUAL, TEXT):
            self._drop_vectors(named(base, generation))
        self._drop_lexical(generation)

    def _drop_vectors(self, collection: str) -> None:
        if self._milvus is not None:
            from pipelines.core.stores.milvus import MilvusStore

            MilvusStore.drop(self._milvus, collection, identity(self._directory))
        else:
            from pipelines.core.stores.embedded import stop

            stop(self._vectors_at(collection))
            _remove(self._vectors_at(collection))

    def _drop_lexical(self, generation: int) -> None:
        if self._elastic is not None:
            from pipelines.core.stores.elastic import ElasticStore

            ElasticStore.drop(self._elastic, named(TEXT, generation), identity(self._directory))
        else:
            _remove(self._lexical_at(generation))

    def _embedded(self, collection: str, create: bool) -> MilvusConfig:
        """One server for each collection, for it works on one core."""
        from pipelines.core.stores.embedded import attach

        directory = self._vectors_at(collection)
        if not (create or directory.is_dir()):
            raise StoreError(f"{directory}: no vectors here; run `mmrag ingest` first")
        self._attached[collection] = attach(directory)
        return MilvusConfig(uri=self._attached[collection])

    def _vectors_at(self, collection: str) -> Path:
        return self._directory / "vectors" / collection

    def _lexical_at(self, generation: int) -> Path:
        return self._directory / named("lexical", generation)


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise StoreError(
            f"{directory}: cannot be deleted ({exc.strerror}); run the same command again"
        ) from exc
