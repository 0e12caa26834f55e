"""A disk cache of vectors by (content hash, fingerprint). Knows nothing of what the vectors mean.

One SQLite file, many readers and writers, no server: of one machine in WAL mode, and of several that share
its folder with a rollback journal and the file system's locks (https://sqlite.org/wal.html: the WAL's index
is memory of one machine). It is only a cache: losing it costs time, never correctness.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.lazy import Lazy

Vector = NDArray[np.float32]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS vectors (
    fingerprint TEXT NOT NULL, content TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (fingerprint, content)
) WITHOUT ROWID
"""
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_MAX_VARIABLES = 500  # below SQLite's historic limit of 999 host parameters


class VectorCache:
    """Vectors of one fingerprint. Safe to share between threads, and to send to other processes; where these
    are of several machines, `shared`.

    Every method raises StoreUnavailable where others keep the file locked for `timeout_s`, StoreError where
    it cannot be read or written.
    """

    def __init__(
        self, path: Path, fingerprint: str, *, shared: bool = False, timeout_s: float = 30.0
    ) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._journal = "DELETE" if shared else "WAL"
        self.fingerprint = fingerprint
        self._lock = threading.Lock()
        self._db = Lazy[sqlite3.Connection](self._connect)

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(VectorCache, shared=self._journal != "WAL", timeout_s=self._timeout_s)
        return made, (self._path, self.fingerprint)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """The connection, for one thread at a time."""
        with self._lock:
            try:
                yield self._db()
            except (sqlite3.Error, OSError) as exc:
                if _is_locked(exc):
                    raise StoreUnavailable(
                        f"{self._path}: others kept the cache locked for {self._timeout_s:g} s ({exc})"
                    ) from exc
                raise StoreError(
                    f"{self._path}: the cache failed ({exc}); is the disk full or read-only? "
                    "A damaged cache may be deleted: it is only a cache"
                ) from exc

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(
            self._path, timeout=self._timeout_s, check_same_thread=False, isolation_level=None
        )
        self._choose_journal(db)
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(_SCHEMA)
        return db

    def _choose_journal(self, db: sqlite3.Connection) -> None:
        """SQLite's own timeout does not cover this step: two that make the file at once must wait."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                db.execute(f"PRAGMA journal_mode={self._journal}")
                return
            except sqlite3.OperationalError as exc:
                if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def get(self, contents: Iterable[str]) -> dict[str, Vector]:
        """The cached vectors among `contents`, by content hash."""
        wanted = list(dict.fromkeys(contents))
        found: dict[str, Vector] = {}
        for start in range(0, len(wanted), _MAX_VARIABLES):
            batch = wanted[start : start + _MAX_VARIABLES]
            marks = ",".join("?" * len(batch))
            query = f"SELECT content, vector FROM vectors WHERE fingerprint = ? AND content IN ({marks})"
            with self._connection() as db:
                rows = db.execute(query, [self.fingerprint, *batch]).fetchall()
            found |= {content: np.frombuffer(blob, dtype=np.float32) for content, blob in rows}
        return found

    def put(self, vectors: Mapping[str, Vector]) -> None:
        """Store vectors by content hash; an entry that is already there stays."""
        rows = [
            (self.fingerprint, content, vector.astype(np.float32, copy=False).tobytes())
            for content, vector in vectors.items()
        ]
        if not rows:
            return
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            with db:  # commits, or rolls back
                db.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        if self._db.made:
            with self._lock:
                self._db().close()


def _is_locked(exc: Exception) -> bool:
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in _LOCKED  # the low byte, of the extended codes too
