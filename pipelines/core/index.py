"""An index: a directory that ties models, stores, cache and previews together. Knows no job.

    DIR/index.json    the manifest: generation, vector spaces and metadata types
    DIR/next.json     the same of a rebuild that has not ended
    DIR/identity      the name that its collections on servers carry
    DIR/writer.json   who holds the write lock
    DIR/cache/        vectors by content hash
    DIR/previews/     upright pictures by content hash
    DIR/ocr/          lines read in pictures by content hash
    DIR/vectors/      embedded vector servers, one a collection (or a Milvus elsewhere, by config)
    DIR/lexical/      embedded lexical index (or an Elasticsearch elsewhere, by config)

The jobs keep their own files beside these, or in DIR/generations/N/. Generation N > 0 has stores of its own,
named with `_gN` at the end; all that goes by content hash is shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from pipelines.core import revisions
from pipelines.core.aligner import Aligner, AlignerConfig, load_aligner
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import Embedder, EmbedderConfig, load_embedder
from pipelines.core.encoder import Encoder, EncoderConfig, load_encoder
from pipelines.core.errors import IndexLocked, UsageError
from pipelines.core.files import disk_errors
from pipelines.core.identity import make_identity
from pipelines.core.lazy import Lazy
from pipelines.core.manifest import NEXT, UNFINISHED, WRITTEN, Manifest, home_of
from pipelines.core.near_duplicates import Likeness, load_likeness
from pipelines.core.ocr import words_reader
from pipelines.core.previews import preview_path
from pipelines.core.readings import load_reading
from pipelines.core.retriever import Knowledge, Retriever, SearchConfig, Watch
from pipelines.core.space import require_same_space
from pipelines.core.store_places import TEXT, VISUAL, StorePlaces
from pipelines.core.stores import LexicalStore, VectorStore
from pipelines.core.stores.config import StoresConfig
from pipelines.core.types import Line, Part
from pipelines.core.writer import noted

_QUESTION_S = 2.0
"""A question waits no longer for a cache that others keep locked: its picture is soon encoded."""


class IndexConfig(BaseModel):
    """The models that make an index's vectors, and the stores that keep them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = EncoderConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    stores: StoresConfig = StoresConfig()


def pinned(config: IndexConfig, written: Manifest | None, *, fetch: bool = True) -> IndexConfig:
    """The settings with the commits of the hub's models for their branches: those of an index whose manifest
    was `written`, or of a new one. Without `fetch` no hub is asked."""
    encoder, embedder = config.encoder, config.embedder
    visual, text = (written.space, written.text_space) if written else (None, None)
    if encoder.kind == "clip":
        commit = revisions.pinned(encoder.model, encoder.revision, visual, fetch=fetch)
        encoder = encoder.model_copy(update={"revision": commit})
    if embedder.kind == "hub":
        commit = revisions.pinned(embedder.model, embedder.revision, text, fetch=fetch)
        embedder = embedder.model_copy(update={"revision": commit})
    return config.model_copy(update={"encoder": encoder, "embedder": embedder})


class Index:
    """An open index. Models and stores load when they are first used. Close it after use.

    It stays with the generation that it first met, so that nothing of two is ever mixed. With `building` that
    is the next one, which a rebuild fills. `encoder` and `embedder` stand for the configured models where
    these run elsewhere.
    """

    def __init__(
        self,
        directory: Path,
        config: IndexConfig,
        *,
        writable: bool = False,
        building: bool = False,
        encoder: Callable[[], Encoder] | None = None,
        embedder: Callable[[], Embedder] | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self.config = config
        self.writable = writable
        self._stack = ExitStack()
        self._file = NEXT if building else WRITTEN
        self._restored: Manifest | None = None
        self.expected_rows = 0  # at least so many come into a vector store that is made now
        self.makes_stores = writable  # those that are not there; else that raises StoreError
        self.met = Lazy[Manifest](self.manifest)
        self._expected: Manifest | None = None
        self.pinned = Lazy[IndexConfig](lambda: pinned(config, self._expected or self._written()))
        self.encoder = Lazy[Encoder](encoder or (lambda: load_encoder(self.pinned().encoder)))
        self.embedder = Lazy[Embedder](embedder or (lambda: load_embedder(self.pinned().embedder)))
        self._places = StorePlaces(self.directory, config.stores)
        self.visual = Lazy[VectorStore](
            lambda: self._vectors(VISUAL, self.met().space["dim"]), lambda _: self._is_served(VISUAL)
        )
        self.text = Lazy[VectorStore](
            lambda: self._vectors(TEXT, self.met().text_space["dim"]), lambda _: self._is_served(TEXT)
        )
        self.lexical = Lazy[LexicalStore](self._lexical)
        self.image_cache = Lazy[VectorCache](
            lambda: self._cache(self._checked_encoder().cache_key, _QUESTION_S)
        )

    @property
    def building(self) -> bool:
        return self._file == NEXT

    @property
    def embedded(self) -> bool:
        """Whether a store lives in the index directory, which only one machine can then write."""
        return self.config.stores.milvus is None or self.config.stores.elastic is None

    @property
    def stores(self) -> Mapping[str, Callable[[], VectorStore | LexicalStore]]:
        return {"visual": self.visual, "text": self.text, "lexical": self.lexical}

    @property
    def previews(self) -> Path:
        return self.directory / "previews"

    @property
    def readings(self) -> Path:
        return self.directory / "ocr"

    @property
    def captions(self) -> Path:
        return self.directory / "captions"

    @property
    def home(self) -> Path:
        """Where the jobs keep what belongs to this generation alone: its ledger and runs."""
        return home_of(self.directory, self.met().generation)

    def manifest(self) -> Manifest:
        """As it is written now; `met` is that of the first time it was needed. Raises UsageError."""
        if self._restored or not self.building:
            return self._restored or Manifest.load(self.directory)
        found = Manifest.find(self.directory, NEXT)
        if found is None:
            raise UsageError(f"no rebuild of {self.directory} is going on")
        return found

    def check_spaces(self, manifest: Manifest | None = None) -> Manifest:
        """The manifest, or one that is to be restored, once both configured models are known to write its
        spaces. Raises SpaceMismatch."""
        self._expected = manifest = manifest or self.manifest()
        require_same_space("visual", manifest.space, self.encoder().space)
        require_same_space("text", manifest.text_space, self.embedder().space)
        return manifest

    def create(self, generation: int = 0, replaces: int | None = None) -> Manifest:
        """Make the manifest, or check the one that is there. Only for the holder of the write lock."""
        if self.begun:
            return self.check_spaces()
        spaces = self.encoder().space.as_dict(), self.embedder().space.as_dict()
        manifest = Manifest(*spaces, generation=generation, replaces=replaces)
        manifest.save(self.directory, self._file)
        return manifest

    def publish(self) -> None:
        """Make what was built the generation that is read, at once. Only for the holder of the write lock."""
        (self.directory / NEXT).replace(self.directory / WRITTEN)
        self._file = WRITTEN

    def abandon(self) -> None:
        """Forget the generation that was being built. Its stores stay, until `drop`."""
        (self.directory / NEXT).unlink(missing_ok=True)

    def _written(self) -> Manifest | None:
        """The manifest, where there is one, be it of an import that has not ended."""
        unfinished = None if self.building else Manifest.find(self.directory, UNFINISHED)
        return unfinished or Manifest.find(self.directory, self._file)

    @property
    def begun(self) -> bool:
        """Whether there is a manifest, be it of an import that has not ended."""
        return (self.directory / self._file).exists() or self.half_restored

    @property
    def half_restored(self) -> bool:
        """Whether a block of `restored` was cut short: the stores hold what it wrote, and nothing else."""
        return (self.directory / UNFINISHED).exists()

    @contextmanager
    def restored(self, manifest: Manifest) -> Iterator[Callable[[], None]]:
        """An index of this manifest, to be filled. Only for the holder of the write lock.

        Call what it yields before the first write. From then on nobody takes the directory for an index,
        until the block ends without an error.
        """

        def begin() -> None:
            (self.directory / WRITTEN).unlink(missing_ok=True)
            manifest.save(self.directory, UNFINISHED)

        self._restored = manifest
        try:
            yield begin
            (self.directory / UNFINISHED).replace(self.directory / WRITTEN)
        finally:
            self._restored = None

    def with_metadata_types(self, types: Mapping[str, str]) -> None:
        replace(self.manifest(), metadata_types=dict(types)).save(self.directory, self._file)

    def reopened(self, *, writable: bool = False, building: bool = False) -> Self:
        """The generation that is read now, or the one that is being built, with the same models."""
        other = type(self)(self.directory, self.config, writable=writable, building=building)
        other.encoder, other.embedder = self.encoder, self.embedder
        return other

    def retriever(
        self, config: SearchConfig, aligner: Aligner | None = None, watch: Watch = lambda branch, vector: None
    ) -> Retriever:
        """Searches this index; `aligner` stands for the configured one where it runs elsewhere."""
        likeness = Lazy[Likeness](lambda: load_likeness(self.home), lambda found: found.stands(self.home))
        knowledge = Knowledge(
            encoder=self._checked_encoder,
            embedder=self._checked_embedder,
            visual=self.visual,
            text=self.text,
            lexical=self.lexical,
            image_cache=self.image_cache,
            image_uri=self.image_uri,
            lines=self.lines,
            likeness=lambda: likeness().first_of,
            aligner=Lazy[Aligner | None](lambda: aligner or self.aligner(config.aligner)),
            read=words_reader(config.ocr),
            watch=watch,
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
        """Held by the one process that writes. Raises IndexLocked at once when another holds it, and
        MmragError for what a disk refuses while it is held."""
        with disk_errors(self.directory), self._locked(), noted(self.directory):
            make_identity(self.directory)
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
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
        require_same_space("visual", self.met().space, self.encoder().space)
        return self.encoder()

    def _checked_embedder(self) -> Embedder:
        require_same_space("text", self.met().text_space, self.embedder().space)
        return self.embedder()

    def drop(self, generation: int) -> None:
        """Delete the stores of a generation. Only for the holder of the write lock, and never of the one that
        is read. May be repeated. Raises StoreUnavailable and StoreError.
        """
        self._places.drop(generation)

    def _vectors(self, base: str, dim: int) -> VectorStore:
        generation, create, rows = self.met().generation, self.makes_stores, self.expected_rows
        # A reader makes nothing: what it does not find may have been dropped a moment ago.
        store = self._places.vectors(base, generation, dim, create=create, expected_rows=rows)
        return self._stack.enter_context(store)

    def _lexical(self) -> LexicalStore:
        generation, create = self.met().generation, self.makes_stores
        store = self._places.lexical(generation, writable=self.writable, create=create)
        return self._stack.enter_context(store)

    def _is_served(self, base: str) -> bool:
        return self._places.is_served(base, self.met().generation)

    def cache(self, fingerprint: str, patience_s: float = 0.0) -> VectorCache:
        """The cached vectors of this fingerprint. `patience_s` is for others that keep the file locked
        for longer than they should."""
        return self._cache(fingerprint, 30 + patience_s)

    def _cache(self, fingerprint: str, timeout_s: float) -> VectorCache:
        path = self.directory / "cache" / "vectors.sqlite"
        cache = VectorCache(path, fingerprint, shared=not self.embedded, timeout_s=timeout_s)
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
