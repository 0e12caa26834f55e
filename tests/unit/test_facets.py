"""Terms keep the order and the equality of values, and a plan over terms means what the filter means."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.core.filters import And, Comparison, Filter, In, Not, Or, equal, matches
from pipelines.core.stores import facets
from pipelines.core.types import Part, Scalar

NUMBERS = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([0, -0.0, 1, 1.0, 2**53, 2**53 + 1, 2.0**53, -(2**63), 2**63 - 1, 5e-324])
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(
    ["", "a", "甲", "乙", "😀", "Ｚ"]
)
VALUES = NUMBERS | TEXTS | st.booleans()


def part(value: Scalar | None) -> Part:
    return Part("d#txt-0", "chunk", "d", "s", metadata={} if value is None else {"x": value})


def holds(plan: facets.Plan, terms: list[str]) -> bool:
    """What an engine does with a plan, on one part's terms."""
    match plan:
        case facets.AnyTerm(wanted):
            return any(term in terms for term in wanted)
        case facets.TermRange(lower, upper, include_lower, include_upper):
            return any(
                (lower < t or (include_lower and lower == t))
                and (t < upper or (include_upper and t == upper))
                for t in terms
            )
        case facets.Any(plans):
            return any(holds(inner, terms) for inner in plans)
        case facets.All(plans, without):
            return all(holds(p, terms) for p in plans) and not any(holds(p, terms) for p in without)


@settings(max_examples=500, deadline=None)
@given(VALUES | st.none(), VALUES, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
@example(2**53 + 1, 2.0**53, ">")
@example(-0.0, 0, "==")
def test_a_comparison_over_terms_agrees_with_matches(left: Scalar | None, right: Scalar, op: str) -> None:
    if isinstance(right, bool) and op not in ("==", "!="):
        return  # the language has no order of true and false
    where = Comparison("x", op, right)  # type: ignore[arg-type]
    for asked in (where, Not(where), And((where, Not(where))), Or((where, Not(where)))):
        assert holds(facets.plan(asked), facets.terms(part(left))) is matches(asked, part(left))


@settings(max_examples=200, deadline=None)
@given(VALUES | st.none(), st.lists(VALUES, min_size=1, max_size=3).map(tuple), st.booleans())
def test_membership_over_terms_agrees_with_matches(
    value: Scalar | None, members: tuple[Scalar, ...], negated: bool
) -> None:
    where: Filter = In("x", members, negated)
    assert holds(facets.plan(where), facets.terms(part(value))) is matches(where, part(value))


@given(VALUES, VALUES)
def test_terms_are_equal_when_values_are(left: Scalar, right: Scalar) -> None:
    assert (facets.terms(part(left)) == facets.terms(part(right))) is equal(left, right)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), VALUES)
def test_a_term_is_letters_and_digits_whatever_the_name(name: str, value: Scalar) -> None:
    for term in facets.terms(Part("d", "chunk", "d", "s", metadata={name: value})):
        assert re.fullmatch("[0-9a-z]+", term)
