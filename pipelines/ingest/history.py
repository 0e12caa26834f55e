"""The last runs of an index, the newest first, in `last-runs.json`. Knows no Ray and no store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pipelines.core.files import replace_file
from pipelines.ingest.summary import Summary

FILE: Final = "last-runs.json"
KEPT: Final = 20
_FIELDS: Final = ("run", "documents", "unchanged", "images", "chunks", "rejected", "elapsed_s")


def remember(directory: Path, summary: Summary) -> None:
    """Only for the holder of the write lock."""
    told = summary.as_dict()
    keep(directory, [{name: told[name] for name in _FIELDS}, *last_runs(directory)][:KEPT])


def keep(directory: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write what `last_runs` gives. Only for the holder of the write lock."""
    replace_file(directory / FILE, json.dumps([dict(run) for run in runs], indent=1) + "\n")


def last_runs(directory: Path) -> list[dict[str, Any]]:
    """Of each its name, which begins with the time in UTC, and what it did. Of a damaged file none: the next
    run writes it anew."""
    try:
        runs = json.loads((directory / FILE).read_text("utf-8"))
        return [run for run in runs if run.keys() >= set(_FIELDS)]
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return []
