"""The pictures that look like another one, as an ingest reported them. Knows not how that was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.core.types import store_key

FILE = "near-duplicates.parquet"
"""Its name in the home of a generation."""


def load_likeness(home: Path) -> Mapping[str, str]:
    """By a picture's key, the key of the first picture that it is like; empty where nothing was reported."""
    if not (home / FILE).exists():
        return {}
    rows = pq.read_table(home / FILE, columns=["tenant", "picture", "like"]).to_pylist()
    return {store_key(r["tenant"], r["picture"]): store_key(r["tenant"], r["like"]) for r in rows}
