"""What is judged relevant and is not in the index: a miss whatever the search. Knows no store or ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipelines.core.types import is_part_id
from pipelines.evaluate.queries import JudgedQuery

FIRST = 5
"""So many are named."""

_AT_ONCE = 512

Held = Callable[[str, Sequence[str]], Collection[str]]
"""Of a tenant's ids, those that the index has."""


@dataclass(frozen=True, slots=True)
class Absent:
    """Of the `relevant` ids that were looked up, how many the index does not have, and the `first` of them:
    documents before parts, each in the order of the queries."""

    relevant: int
    missing: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(self.first) + (", …" if self.missing > len(self.first) else "")
        return f"{self.missing:,} of {self.relevant:,} relevant ids are not in the index: {named}"


def absent(queries: Sequence[JudgedQuery], documents: Held | None, parts: Held) -> Absent:
    """`documents` is asked once for all that are named of a tenant, and where it is None they are not looked
    up; `parts` is asked for 512 at a time. No id of a tenant counts twice. Raises what these raise."""
    names: dict[str, dict[str, None]] = {}
    for query in queries:
        names.setdefault(query.tenant, {}).update(dict.fromkeys(query.relevant))
    asked, no_documents, no_parts = 0, list[str](), list[str]()
    for tenant, ids in names.items():
        of_parts = [name for name in ids if is_part_id(name)]
        of_documents = [name for name in ids if not is_part_id(name)] if documents else []
        asked += len(of_documents) + len(of_parts)
        there = set(documents(tenant, of_documents)) if documents and of_documents else set()
        for start in range(0, len(of_parts), _AT_ONCE):
            there.update(parts(tenant, of_parts[start : start + _AT_ONCE]))
        no_documents += [name for name in of_documents if name not in there]
        no_parts += [name for name in of_parts if name not in there]
    missing = [*no_documents, *no_parts]
    return Absent(asked, len(missing), tuple(missing[:FIRST]))
