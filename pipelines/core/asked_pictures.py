"""The vectors of questions' pictures. Those that ingest has cached are read; nothing is written on disk.

A server may be asked about any number of pictures: only the last ones are remembered, in memory. Knows not
what is searched with the vectors.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pipelines.core.cache import VectorCache
from pipelines.core.encoder import Encoder, Vectors
from pipelines.core.errors import StoreError

REMEMBERED: Final = 128
_LOG = logging.getLogger(__name__)


class AskedPictures:
    """Safe to share between threads. `hits` counts the pictures whose vectors were known, `misses` others.

    Without the cache vectors are made anew: one that fails is told of once, and asked no more.
    """

    def __init__(self, cache: Callable[[], VectorCache], encoder: Callable[[], Encoder]) -> None:
        self._cache, self._encoder = cache, encoder
        self._remembered: OrderedDict[str, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self._failed = False
        self.hits = self.misses = 0

    def vectors(self, data: bytes) -> Vectors:
        """(V, D), unit rows, one a view, the whole picture first; of one that was ingested the whole alone.
        Raises BadImage, and what loading the encoder raises."""
        content = hashlib.sha256(data).hexdigest()
        known = self._recall(content)
        if known is None:
            known = self._cached(content)
        with self._lock:
            self.hits += known is not None
            self.misses += known is None
        vectors = self._encoder().encode_asked(data) if known is None else known
        with self._lock:
            self._remembered[content] = vectors
            self._remembered.move_to_end(content)
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return vectors

    def _recall(self, content: str) -> Vectors | None:
        with self._lock:
            return self._remembered.get(content)

    def _cached(self, content: str) -> Vectors | None:
        cache = self._cache()
        if self._failed:
            return None
        try:
            found = cache.get([content]).get(content)
            return None if found is None else found[None]
        except StoreError as exc:
            with self._lock:
                is_first, self._failed = not self._failed, True
            if is_first:
                _LOG.warning("questions' pictures are encoded without the cache from now on: %s", exc)
            return None
