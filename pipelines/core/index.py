"""An index: a directory that ties models, stores, cache and previews together. Knows no job.

    DIR/index.json    the manifest: vector spaces and metadata types
    DIR/cache/        vectors by content hash
    DIR/previews/     upright pictures by content hash
    DIR/ocr/          lines read in pictures by content hash
    DIR/vectors/      embedded vector servers, one a collection (or a Milvus elsewhere, by config)
    DIR/lexical/      embedded lexical index (or an Elasticsearch elsewhere, by config)

The jobs keep their own files beside these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from pipelines.core.aligner import Aligner, AlignerConfig, load_aligner
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import Embedder, EmbedderConfig, load_embedder
from pipelines.core.encoder import Encoder, EncoderConfig, load_encoder
from pipelines.core.errors import IndexLocked, UsageError
from pipelines.core.lazy import Lazy
from pipelines.core.previews import preview_path
from pipelines.core.readings import load_reading
from pipelines.core.retriever import Knowledge, Retriever, SearchConfig
from pipelines.core.space import require_same_space
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.core.stores.config import ElasticConfig, MilvusConfig
from pipelines.core.types import Line, Part

VISUAL, TEXT = "visual_knowledge", "text_knowledge"
_FORMAT = 1
_WRITTEN, _UNFINISHED = "index.json", "restoring.json"


class StoresConfig(BaseModel):
    """Server stores by address; what is left out is embedded in the index directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    milvus: MilvusConfig | None = None
    elastic: ElasticConfig | None = None


class IndexConfig(BaseModel):
    """The models that make an index's vectors, and the stores that keep them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = EncoderConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    stores: StoresConfig = StoresConfig()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was fixed when the index was made, and the metadata fields seen since."""

    space: Mapping[str, Any]
    text_space: Mapping[str, Any]
    metadata_types: Mapping[str, str] = field(default_factory=dict)

    def save(self, directory: Path, name: str = _WRITTEN) -> None:
        body = {
            "format": _FORMAT,
            "space": dict(self.space),
            "text_space": dict(self.text_space),
            "metadata_types": dict(self.metadata_types),
        }
        beside = directory / ".index.json"
        beside.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(directory / name)

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Raises UsageError when there is no index here, or one of another version."""
        path = directory / _WRITTEN
        if (directory / _UNFINISHED).exists():
            raise UsageError(f"an import into {directory} has not ended; wait, or run it again")
        if not path.exists():
            raise UsageError(
                f"no index at {directory}; make one with: mmrag ingest SOURCE --index {directory}"
            )
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["format"] != _FORMAT:
                raise UsageError(
                    f"{path} has format {body['format']}; this version reads {_FORMAT}: ingest again"
                )
            return cls(body["space"], body["text_space"], body["metadata_types"])
        except (ValueError, KeyError, TypeError) as exc:
            if isinstance(exc, UsageError):
                raise
            raise UsageError(f"{path} is damaged ({exc}); restore it, or ingest into a new --index") from exc


class Index:
    """An open index. Models and stores load when they are first used. Close it after use.

    `encoder` and `embedder` stand for the configured models where these run elsewhere.
    """

    def __init__(
        self,
        directory: Path,
        config: IndexConfig,
        *,
        writable: bool = False,
        encoder: Callable[[], Encoder] | None = None,
        embedder: Callable[[], Embedder] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.config = config
        self.writable = writable
        self._stack = ExitStack()
        self._restored: Manifest | None = None
        self.encoder = Lazy[Encoder](encoder or (lambda: load_encoder(config.encoder)))
        self.embedder = Lazy[Embedder](embedder or (lambda: load_embedder(config.embedder)))
        self.visual = Lazy[VectorStore](lambda: self._vectors(VISUAL, self.manifest().space["dim"]))
        self.text = Lazy[VectorStore](lambda: self._vectors(TEXT, self.manifest().text_space["dim"]))
        self.lexical = Lazy[LexicalStore](self._lexical)
        self.image_cache = Lazy[VectorCache](lambda: self.cache(self._checked_encoder().cache_key))

    @property
    def embedded(self) -> bool:
        """Whether a store lives in the index directory, which only one machine can then write."""
        return self.config.stores.milvus is None or self.config.stores.elastic is None

    @property
    def previews(self) -> Path:
        return self.directory / "previews"

    @property
    def readings(self) -> Path:
        return self.directory / "ocr"

    def manifest(self) -> Manifest:
        return self._restored or Manifest.load(self.directory)

    def check_spaces(self) -> Manifest:
        """The manifest, once both configured models are known to write its spaces. Raises SpaceMismatch."""
        manifest = self.manifest()
        require_same_space("visual", manifest.space, self.encoder().space)
        require_same_space("text", manifest.text_space, self.embedder().space)
        return manifest

    def create(self) -> Manifest:
        """Make the manifest, or check the one that is there. Only for the holder of the write lock."""
        if self.begun:
            return self.check_spaces()
        manifest = Manifest(self.encoder().space.as_dict(), self.embedder().space.as_dict())
        manifest.save(self.directory)
        return manifest

    @property
    def begun(self) -> bool:
        """Whether there is a manifest, be it of an import that has not ended."""
        return (self.directory / _WRITTEN).exists() or self.half_restored

    @property
    def half_restored(self) -> bool:
        """Whether a block of `restored` was cut short: the stores hold what it wrote, and nothing else."""
        return (self.directory / _UNFINISHED).exists()

    @contextmanager
    def restored(self, manifest: Manifest) -> Iterator[Callable[[], None]]:
        """An index of this manifest, to be filled. Only for the holder of the write lock.

        Call what it yields before the first write. From then on nobody takes the directory for an index,
        until the block ends without an error.
        """

        def begin() -> None:
            (self.directory / _WRITTEN).unlink(missing_ok=True)
            manifest.save(self.directory, _UNFINISHED)

        self._restored = manifest
        try:
            yield begin
            (self.directory / _UNFINISHED).replace(self.directory / _WRITTEN)
        finally:
            self._restored = None

    def with_metadata_types(self, types: Mapping[str, str]) -> None:
        replace(self.manifest(), metadata_types=dict(types)).save(self.directory)

    def retriever(self, config: SearchConfig, aligner: Aligner | None = None) -> Retriever:
        """Searches this index; `aligner` stands for the configured one where it runs elsewhere."""
        knowledge = Knowledge(
            encoder=self._checked_encoder,
            embedder=self._checked_embedder,
            visual=self.visual,
            text=self.text,
            lexical=self.lexical,
            image_cache=self.image_cache,
            image_uri=self.image_uri,
            lines=self.lines,
            aligner=Lazy[Aligner | None](lambda: aligner or self.aligner(config.aligner)),
        )
        retriever = Retriever(knowledge, config)
        self._stack.callback(retriever.close)
        return retriever

    def aligner(self, config: AlignerConfig) -> Aligner | None:
        """The configured aligner, or None. Raises SpaceMismatch where it was trained on other vectors."""
        if not config.model:
            return None
        spaces = self._checked_encoder().space, self._checked_embedder().space
        return load_aligner(config, *spaces, self.previews)

    def image_uri(self, part: Part) -> str:
        return preview_path(self.previews, part.content).as_uri()

    def lines(self, part: Part) -> tuple[Line, ...]:
        """The lines that were read in a picture; none where none were looked for."""
        reading = load_reading(self.readings, part.content)
        return reading.lines if reading else ()

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Held by the one process that writes. Raises IndexLocked at once when another holds it."""
        if self.directory.exists() and not self.directory.is_dir():
            raise UsageError(f"--index {self.directory} is a file; name a directory")
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / "writer.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise IndexLocked(
                f"{self.directory} is being written by another process; wait until it ends"
            ) from exc
        try:
            yield
        finally:
            lock.release()

    def _checked_encoder(self) -> Encoder:
        require_same_space("visual", self.manifest().space, self.encoder().space)
        return self.encoder()

    def _checked_embedder(self) -> Embedder:
        require_same_space("text", self.manifest().text_space, self.embedder().space)
        return self.embedder()

    def _vector_server(self, collection: str) -> MilvusConfig:
        """The configured server; else an embedded one for each collection, for it works on one core."""
        if self.config.stores.milvus is not None:
            return self.config.stores.milvus
        from pipelines.core.stores.embedded import attach

        return MilvusConfig(uri=attach(self.directory / "vectors" / collection))

    def _vectors(self, collection: str, dim: int) -> VectorStore:
        from pipelines.core.stores.milvus import MilvusStore

        return self._stack.enter_context(MilvusStore.open(self._vector_server(collection), collection, dim))

    def _lexical(self) -> LexicalStore:
        if self.config.stores.elastic is not None:
            from pipelines.core.stores.elastic import ElasticStore

            return self._stack.enter_context(ElasticStore.open(self.config.stores.elastic, TEXT))
        from pipelines.core.stores.tantivy import TantivyStore

        return self._stack.enter_context(
            TantivyStore.open(self.directory / "lexical", writable=self.writable)
        )

    def cache(self, fingerprint: str) -> VectorCache:
        cache = VectorCache(self.directory / "cache" / "vectors.sqlite", fingerprint)
        self._stack.callback(cache.close)
        return cache

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
