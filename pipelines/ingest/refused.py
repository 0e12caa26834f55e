"""How many refusals of listing stand, by source: those that no document of the ledger counts. Knows no store.

`rejected/*.parquet` tell why, but are a history: what was put right since stands there too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pipelines.core.files import replace_file
from pipelines.ingest.sources import Rejected

FILE: Final = "refused.json"
"""Its name in the home of a generation."""


def remember(home: Path, scopes: Iterable[str], refused: Iterable[Rejected]) -> None:
    """Keep what a run refused while it listed these sources, instead of what an earlier one did."""
    found = counts(home) | dict.fromkeys(scopes, 0) | Counter(bad.scope for bad in refused)
    keep(home, {scope: n for scope, n in found.items() if n})


def keep(home: Path, found: Mapping[str, int]) -> None:
    """Write what `counts` gives."""
    replace_file(home / FILE, json.dumps(dict(found), indent=1) + "\n")


def standing(home: Path) -> int:
    """The refusals of all sources, each as it was listed last."""
    return sum(counts(home).values())


def counts(home: Path) -> dict[str, int]:
    """By source. None of a damaged file: the next run writes it anew."""
    try:
        found = json.loads((home / FILE).read_text("utf-8"))
        return {scope: int(n) for scope, n in found.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
