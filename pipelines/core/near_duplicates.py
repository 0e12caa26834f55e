"""The pictures that look like another one, as an ingest reported them. Knows not how that was found."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.core.types import store_key

FILE = "near-duplicates.parquet"
"""Its name in the home of a generation."""

# What pyarrow raises of a damaged file. KeyError: for a column that is not there.
_DAMAGE: Final = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, UnicodeDecodeError, KeyError)
_LOG = logging.getLogger(__name__)


@contextmanager
def damage_told(home: Path) -> Iterator[None]:
    """A damaged report ends the block with a warning, and counts as none."""
    try:
        yield
    except _DAMAGE as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise  # a disk's: pyarrow's own has no number
        _LOG.warning(
            "%s is damaged, and counts as none: an ingest with ingest.near_duplicates=report writes it anew",
            home / FILE,
        )


@dataclass(frozen=True, slots=True)
class Likeness:
    """`first_of`: by a picture's key, the key of the first picture that it is like. `stamp` tells the report
    that it was read from, of those that ingests write one after another."""

    stamp: tuple[int, ...] = ()
    first_of: Mapping[str, str] = field(default_factory=dict)

    def stands(self, home: Path) -> bool:
        """Whether the report is still the same."""
        return self.stamp == _stamp(home)


def load_likeness(home: Path) -> Likeness:
    """Empty where nothing was reported, and with a warning where the report is damaged."""
    stamp = _stamp(home)  # before it is read: of one that is replaced meanwhile it is too old, and read again
    if not stamp:
        return Likeness()
    pairs: dict[str, str] = {}
    with damage_told(home), pq.ParquetFile(home / FILE) as report:
        for rows in report.iter_batches(columns=["tenant", "picture", "like"]):
            for row in rows.to_pylist():
                pairs[store_key(row["tenant"], row["picture"])] = store_key(row["tenant"], row["like"])
        return Likeness(stamp, pairs)
    return Likeness(stamp)


def _stamp(home: Path) -> tuple[int, ...]:
    try:
        stat = (home / FILE).stat()
    except FileNotFoundError:
        return ()
    return stat.st_mtime_ns, stat.st_ino, stat.st_size
