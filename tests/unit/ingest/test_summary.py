"""What stands refused after a run, against what it may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import MmragError
from pipelines.ingest import refused
from pipelines.ingest.sources import Rejected
from pipelines.ingest.summary import check_rejected


def totals(images: int = 0, chunks: int = 0, rejected: int = 0) -> dict[str, Any]:
    return {"images": images, "chunks": chunks, "rejected": rejected}


def test_old_refusals_do_not_fail_a_run_that_had_nothing_to_do(tmp_path: Path) -> None:
    """Ten broken rows of a manifest are refused by each run anew, beside a thousand unchanged documents."""
    rows = [Rejected(f"m:{n}", f"/m:{n}", "list", "is not JSON", "/m") for n in range(10)]
    for _ in range(2):
        refused.remember(tmp_path, ["/m"], rows)
        check_rejected(totals(images=1000), refused.standing(tmp_path), 0.05)


def test_refusals_of_listing_and_of_parts_count_together() -> None:
    check_rejected(totals(images=2, chunks=4, rejected=1), 1, 0.25)
    with pytest.raises(
        MmragError, match=r"3 of 9 parts were refused, more than .*max_rejected_fraction 0\.25"
    ):
        check_rejected(totals(images=2, chunks=4, rejected=1), 2, 0.25)


def test_an_index_of_nothing_but_refusals_fails_and_an_empty_one_does_not() -> None:
    with pytest.raises(MmragError, match="1 of 1 parts"):
        check_rejected(totals(), 1, 0.99)
    check_rejected(totals(), 0, 0.0)
