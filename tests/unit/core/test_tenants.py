"""Which tenant a filter keeps to."""

from __future__ import annotations

import pytest

from pipelines.core.filters import parse
from pipelines.core.tenants import named


@pytest.mark.parametrize("text", ['tenant == "acme"', 'year > 1 and (kind == "image" and tenant == "acme")'])
def test_a_filter_that_holds_for_one_tenant_alone_names_it(text: str) -> None:
    assert named(parse(text)) == "acme"


@pytest.mark.parametrize(
    "text", ['tenant != "acme"', 'tenant == "acme" or year > 1', 'not tenant == "acme"', "year > 1"]
)
def test_one_that_may_hold_for_others_names_none(text: str) -> None:
    assert named(parse(text)) is None
    assert named(None) is None


def test_the_empty_tenant_is_named_too() -> None:
    assert named(parse('tenant == ""')) == ""
