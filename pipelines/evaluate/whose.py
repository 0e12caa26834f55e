"""Whose documents judgements are of: an id is one tenant's, so what is judged by ids is asked of one.

A filter's own `tenant == "..."` comes first, then the setting `ingest.sources.tenant`, then the only tenant
that the index has. Knows no store or ledger.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from pipelines.core.errors import UsageError
from pipelines.core.filters import Filter
from pipelines.core.tenants import named, scoped
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.questions import QUERY, JudgedQuestion


@dataclass(frozen=True, slots=True)
class Whose:
    """`setting` is empty where none is set; `held`: the tenants of the index, empty where not known."""

    setting: str
    held: Set[str]

    def queries(self, queries: Sequence[JudgedQuery]) -> tuple[JudgedQuery, ...]:
        """Each with its tenant, and asked within it. Raises UsageError where that may be several."""
        found = []
        for query in queries:
            tenant = self._of(query.filter, query.where)
            found.append(replace(query, tenant=tenant, filter=self._within(query.filter, tenant)))
        return tuple(found)

    def questions(self, questions: Sequence[JudgedQuestion]) -> tuple[JudgedQuestion, ...]:
        """Those with boxes on hits as `queries`. Of others no id is judged: without a setting they are asked
        of all tenants, as `mmrag ask` does."""
        found = []
        for question in questions:
            by_id = any(box.picture != QUERY for box in question.boxes)
            tenant = self._of(question.filter, question.where) if by_id or self.setting else None
            found.append(replace(question, filter=self._within(question.filter, tenant)))
        return tuple(found)

    def _of(self, where: Filter | None, place: str) -> str:
        own = named(where)
        if own is not None:
            return own
        if self.setting or not self.held or "" in self.held:
            return self.setting
        if len(self.held) > 1:
            raise UsageError(
                f"{place}: the index has documents of {len(self.held)} tenants, and an id is one tenant's: "
                "name it with --set ingest.sources.tenant=NAME, or in each filter"
            )
        return next(iter(self.held))

    def _within(self, where: Filter | None, tenant: str | None) -> Filter | None:
        """As it is where it can find no other tenant's documents."""
        alone = tenant is None or (self.held or {""}) == {tenant} or named(where) is not None
        return where if alone else scoped(where, tenant)
