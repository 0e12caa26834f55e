"""Relevant ids that the index does not have."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.evaluate.absent import Absent, absent
from pipelines.evaluate.queries import JudgedQuery


def query(*relevant: str, tenant: str = "") -> JudgedQuery:
    grades = dict.fromkeys(relevant, 1.0)
    return JudgedQuery("q", "q.jsonl:1", "red", None, "auto", None, "en", grades, tenant=tenant)


class Asked:
    """Holds these, and keeps what it was asked for."""

    def __init__(self, *holds: str) -> None:
        self._holds = holds
        self.asked: list[list[str]] = []

    def __call__(self, tenant: str, names: Sequence[str]) -> list[str]:
        self.asked.append(list(names))
        return [name for name in names if name in self._holds]


def test_documents_and_parts_are_looked_up_once_each() -> None:
    documents, parts = Asked("rose"), Asked("leaf#img-0")
    queries = [query("rose", "tulip"), query("leaf#img-0", "leaf#txt-7"), query("tulip"), query()]
    found = absent(queries, documents, parts)
    assert found == Absent(4, 2, ("tulip", "leaf#txt-7"))
    assert documents.asked == [["rose", "tulip"]]
    assert parts.asked == [["leaf#img-0", "leaf#txt-7"]]


def test_without_a_ledger_only_parts_are_looked_up() -> None:
    assert absent([query("rose"), query("leaf#img-0")], None, Asked()) == Absent(1, 1, ("leaf#img-0",))
    assert absent([query("rose")], None, Asked()) == Absent(0, 0, ())


def test_an_id_is_looked_up_for_each_tenant() -> None:
    def documents(tenant: str, names: Sequence[str]) -> list[str]:
        return list(names) if tenant == "acme" else []

    queries = [query("1", tenant="acme"), query("1", tenant="globex"), query("1", tenant="acme")]
    assert absent(queries, documents, Asked()) == Absent(2, 1, ("1",))


def test_parts_are_asked_for_some_at_a_time() -> None:
    parts = Asked()
    found = absent([query(*(f"d{n}#img-0" for n in range(1200)))], None, parts)
    assert [len(asked) for asked in parts.asked] == [512, 512, 176]
    assert (found.relevant, found.missing) == (1200, 1200)


def test_the_first_few_are_named() -> None:
    few, many = (absent([query(*"abcdefg"[:count])], Asked(), Asked()) for count in (2, 7))
    assert str(few) == "2 of 2 relevant ids are not in the index: a, b"
    assert str(many) == "7 of 7 relevant ids are not in the index: a, b, c, d, e, …"
