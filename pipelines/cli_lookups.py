"""What `mmrag evaluate` looks up in an index beside the questions: whose documents and which relevant ids it
has, how texts and pictures meet. What cannot be looked up is told on stderr, and ends no measurement."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.plain import tidy

if TYPE_CHECKING:
    from pipelines.core.index import Index
    from pipelines.core.retriever import Retriever
    from pipelines.evaluate.absent import Absent
    from pipelines.evaluate.cases import Find
    from pipelines.evaluate.queries import JudgedQuery
    from pipelines.evaluate.retrieval import Also
    from pipelines.evaluate.whose import Whose
    from pipelines.settings import Settings


def whose(index: Index, settings: Settings) -> Whose:
    """A ledger that cannot be read ends no measurement: then the setting decides."""
    from pipelines.evaluate.whose import Whose
    from pipelines.ingest.ledger import Ledger

    held = set[str]()
    try:
        held = Ledger.load(index.home).tenants()
    except OSError as exc:
        print(f"mmrag: whose documents the index has was not looked up: {exc}", file=sys.stderr)
    return Whose(settings.ingest.sources.tenant, held)


def absent_of(queries: Sequence[JudgedQuery], index: Index) -> Absent | None:
    """Told on stderr; documents by the ledger, where there is one. None where they could not be looked up,
    which ends no measurement."""
    from pipelines.core.types import store_key
    from pipelines.evaluate.absent import absent
    from pipelines.ingest.ledger import Ledger

    def documents(tenant: str, names: Sequence[str]) -> list[str]:
        keys = {store_key(tenant, name): name for name in names}
        return [keys[key] for key in ledger.held(keys)]

    try:
        ledger = Ledger.load(index.home)
        found = absent(queries, documents if len(ledger) else None, parts(index))
    except (StoreError, OSError) as exc:
        print(f"mmrag: relevant ids were not looked up: {exc}", file=sys.stderr)
        return None
    if found.missing:
        print(f"mmrag: {tidy(str(found))}", file=sys.stderr)
    return found


def cross_modal_of(queries: Sequence[JudgedQuery], index: Index) -> Also:
    """A store of pictures that is down degrades searches, and ends no measurement of theirs."""
    from pipelines.evaluate.cross_modal import cross_modal
    from pipelines.evaluate.retrieval import NOTHING_ELSE

    try:
        return cross_modal(queries, index.visual(), index.encoder())
    except StoreUnavailable as exc:
        print(f"mmrag: no measures of pairs of texts and pictures: {exc}", file=sys.stderr)
        return NOTHING_ELSE


def fused_otherwise(index: Index, settings: Settings) -> dict[str, Retriever]:
    other = "ranks" if settings.search.fusion == "margins" else "margins"
    return {f"fused by {other}": index.retriever(settings.search.model_copy(update={"fusion": other}))}


def parts(index: Index) -> Find:
    from pipelines.core.types import store_key
    from pipelines.evaluate.cases import Held

    def find(tenant: str, names: Sequence[str]) -> dict[str, Held]:
        keys = {store_key(tenant, name): name for name in names}
        found = {**index.visual().fetch(list(keys)), **index.text().fetch(list(keys))}
        return {
            keys[key]: Held(part.text, index.image_uri(part) if part.kind == "image" else None)
            for key, part in found.items()
        }

    return find
