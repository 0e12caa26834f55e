"""Search an index that may be rebuilt meanwhile: every search meets one generation, whole. Knows no Ray.

`index.json` is looked at once a second at most, when a search begins. A generation of the same vector spaces,
or of any that the loaded models write, is opened and the old one closed after its last search. Of one that
needs other models nothing is read: answers come from the generation before while it is kept, and say so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from pipelines.core.aligner import Aligner
from pipelines.core.asked_pictures import AskedPictures
from pipelines.core.errors import SpaceMismatch
from pipelines.core.index import Index
from pipelines.core.manifest import WRITTEN, Manifest
from pipelines.core.retriever import Query, Retriever, SearchConfig, Watch
from pipelines.core.types import SearchResult

LOOK_EVERY_S: Final = 1.0
_RESTART: Final = "restart with the settings that it was rebuilt with"
_OUTDATED: Final = (
    "index: it was rebuilt with other models, so this answer comes from the generation before it; " + _RESTART
)


class _Opened:
    def __init__(self, index: Index, retriever: Retriever) -> None:
        self.index, self.retriever, self.searches = index, retriever, 0


class LiveIndex:
    """Searches an index, and follows its rebuilds. Safe to use from several threads; it closes `index`.

    `aligner` stands for the configured one where it runs elsewhere.
    """

    def __init__(
        self,
        index: Index,
        config: SearchConfig,
        aligner: Aligner | None = None,
        watch: Watch = lambda branch, vector: None,
    ) -> None:
        self._config, self._aligner, self._watch = config, aligner, watch
        self._lock = threading.Lock()
        self._opened = self._with_retriever(index)
        self._is_closed = False
        self._left: list[_Opened] = []
        self._seen: tuple[int, ...] = ()
        self._looked_s = float("-inf")
        self._note = self._refusal = ""

    @property
    def index(self) -> Index:
        """The one that was searched last."""
        return self._opened.index

    @property
    def pictures(self) -> AskedPictures:
        """Those that the same one was asked about."""
        return self._opened.retriever.pictures

    def search(self, query: Query) -> SearchResult:
        """As `Retriever.search`. Raises SpaceMismatch where the index was rebuilt with other models and the
        generation before is kept no more."""
        with self.opened() as (_, retriever):
            note = self._note
            result = retriever.search(query)
        return replace(result, degraded=(*result.degraded, note)) if note else result

    @contextmanager
    def opened(self) -> Iterator[tuple[Index, Retriever]]:
        """The index as it is now, which is not closed before the block ends."""
        with self._locked():
            if time.monotonic() - self._looked_s >= LOOK_EVERY_S:
                self._look()
            if self._refusal:
                raise SpaceMismatch(self._refusal)
            opened = self._opened
            opened.searches += 1
        try:
            yield opened.index, opened.retriever
        finally:
            with self._locked():
                opened.searches -= 1
                if self._is_closed and opened is self._opened:
                    self._go_over_to(opened.index.reopened())

    def look(self) -> None:
        """Look for a rebuild now, whenever the last look was."""
        with self._locked():
            self._look()

    def close(self) -> None:
        """Once the searches that run have ended. One that comes later opens the index for itself alone."""
        with self._locked():
            self._is_closed = True
            self._go_over_to(self.index.reopened())

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        try:
            stat = (self.index.directory / WRITTEN).stat()
        except FileNotFoundError:
            return  # no index yet, which the search tells, or one that is being imported anew
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen == self._seen:
            return
        met, now = self.index.met(), Manifest.load(self.index.directory)
        if met.generation != now.generation:
            self._follow(met, now)
        self._seen = seen

    def _follow(self, met: Manifest, now: Manifest) -> None:
        self._note = self._refusal = ""
        index = self.index.reopened()
        try:
            if (now.space, now.text_space) != (met.space, met.text_space):
                index.check_spaces()
        except SpaceMismatch as exc:
            if now.replaces == met.generation:
                self._note = _OUTDATED
            else:
                self._refusal = f"the index was rebuilt with other models; {_RESTART}: {exc}"
            return
        self._go_over_to(index)

    def _go_over_to(self, index: Index) -> None:
        self._left.append(self._opened)
        self._opened = self._with_retriever(index)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """What was left and is searched no more is closed once the lock is released: a store may be slow."""
        ended: list[_Opened] = []
        try:
            with self._lock:
                try:
                    yield
                finally:
                    ended = [left for left in self._left if not left.searches]
                    self._left = [left for left in self._left if left.searches]
        finally:
            for left in ended:
                left.index.close()

    def _with_retriever(self, index: Index) -> _Opened:
        return _Opened(index, index.retriever(self._config, self._aligner, self._watch))
