"""Whose documents judged queries and questions are asked of."""

from __future__ import annotations

import pytest

from pipelines.core.errors import UsageError
from pipelines.core.filters import And, Comparison, Filter, parse
from pipelines.evaluate.boxes import OnPicture
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.questions import QUERY, JudgedQuestion
from pipelines.evaluate.whose import Whose

ACME = Comparison("tenant", "==", "acme")


def asked(whose: Whose, where: str | None = None) -> tuple[str, Filter | None]:
    parsed = parse(where) if where else None
    query = JudgedQuery("q", "q.jsonl:1", "red", None, "auto", parsed, "en", {"1": 1.0})
    (found,) = whose.queries([query])
    return found.tenant, found.filter


def question(whose: Whose, *boxes: str, where: str | None = None) -> Filter | None:
    placed = tuple(OnPicture(picture, (0, 0, 1, 1)) for picture in boxes)
    parsed = parse(where) if where else None
    made = JudgedQuestion("q", "q.jsonl:1", "red", None, parsed, "en", (), True, placed)
    return whose.questions([made])[0].filter


def test_an_index_of_one_tenant_is_asked_as_it_is() -> None:
    assert asked(Whose("", {""})) == ("", None)
    assert asked(Whose("", set())) == ("", None)
    assert asked(Whose("", {"acme"})) == ("acme", None)
    assert asked(Whose("acme", {"acme"})) == ("acme", None)


def test_of_several_the_one_that_is_set_is_asked() -> None:
    assert asked(Whose("acme", {"acme", "globex"})) == ("acme", ACME)
    assert asked(Whose("acme", {"globex"})) == ("acme", ACME)
    assert asked(Whose("acme", set())) == ("acme", ACME)
    year = Comparison("year", ">", 1)
    assert asked(Whose("acme", {"acme", "globex"}), "year > 1") == ("acme", And((ACME, year)))


def test_documents_of_no_tenant_are_a_tenants_too() -> None:
    assert asked(Whose("", {"", "globex"})) == ("", Comparison("tenant", "==", ""))


def test_a_filters_own_tenant_comes_first() -> None:
    assert asked(Whose("globex", {"acme", "globex"}), 'tenant == "acme"') == ("acme", ACME)
    assert asked(Whose("", {"acme", "globex"}), 'tenant == "acme"') == ("acme", ACME)


def test_of_several_of_which_none_is_meant_the_setting_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"^q\.jsonl:1: .*ingest\.sources\.tenant=NAME"):
        asked(Whose("", {"acme", "globex"}))


def test_a_question_is_of_one_tenant_where_that_is_set_or_a_box_names_a_hit() -> None:
    both = {"acme", "globex"}
    assert question(Whose("", both)) is None
    assert question(Whose("", both), QUERY) is None
    assert question(Whose("acme", both)) == ACME
    assert question(Whose("", both), "1#img-0", where='tenant == "acme"') == ACME
    with pytest.raises(UsageError, match="tenants"):
        question(Whose("", both), "1#img-0")
