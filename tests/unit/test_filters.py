"""The filter language: what parses, what it means, and what its errors say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import FilterError
from pipelines.core.filter_forms import answerable, without
from pipelines.core.filters import (
    MAX_DEPTH,
    MAX_LENGTH,
    And,
    Comparison,
    Filter,
    In,
    Not,
    Or,
    all_equal,
    check,
    fields,
    matches,
    parse,
    render,
)
from pipelines.core.types import Part, Scalar

A, B, C = (Comparison(name, "==", 1) for name in "abc")


def part(**metadata: Scalar) -> Part:
    return Part("d#img-0", "image", "d", "src/d.png", metadata=metadata, tenant="t")


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('product_id == "A1"', Comparison("product_id", "==", "A1")),
        ("x==-3", Comparison("x", "==", -3)),
        ("x >= 2.5e-3", Comparison("x", ">=", 0.0025)),
        ("x != True and y == false", And((Comparison("x", "!=", True), Comparison("y", "==", False)))),
        (r"""x == 'it\'s "so"\n\\'""", Comparison("x", "==", 'it\'s "so"\n\\')),
        ("年份 in ['二〇', \"a\"]", In("年份", ("二〇", "a"))),
        ("x not in [1]", In("x", (1,), negated=True)),
        ("`unit price` < 3", Comparison("unit price", "<", 3)),
        ("`and` == 1", Comparison("and", "==", 1)),
        ("product-id == 1", Comparison("product-id", "==", 1)),
        ("a == 1 or b == 1 and c == 1", Or((A, And((B, C))))),
        ("(a == 1 or b == 1) and c == 1", And((Or((A, B)), C))),
        ("not a == 1 and b == 1", And((Not(A), B))),
        ("not (a == 1 and b == 1)", Not(And((A, B)))),
        ("NOT a == 1 AND b == 1", And((Not(A), B))),
        ("a == 1 and b == 1 and c == 1", And((A, B, C))),
        ("index == 1", Comparison("index", "==", 1)),
    ],
)
def test_an_expression_parses_to_its_tree(text: str, tree: Filter) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("text", "position", "hint"),
    [
        ("", 1, "field name"),
        ("price = 3", 7, "use =="),
        ("a == 1 && b == 1", 8, "use and"),
        ("a == 1 || b == 1", 8, "use or"),
        ("!a == 1", 1, "use not"),
        ('a == "x', 6, "does not end"),
        ("a == 'x\ny'", 6, "does not end"),
        (r'a == "\q"', 6, "unknown escape"),
        ("a == x", 6, "quotes"),
        ("a == 1 b", 8, "expected and"),
        ("(a == 1", 8, "expected )"),
        ("a == 1)", 7, "expected and"),
        ("a in []", 7, "expected a value"),
        ("a in [1,]", 9, "expected a value"),
        ("a in 1", 6, "expected a list"),
        ("a not 1", 7, "expected in"),
        ("a < true", 3, "no order"),
        ("1 == a", 1, "field name"),
        ("a == 9223372036854775808", 6, "64 bits"),
        ("a == 1e999", 6, "64 bits"),
        ("a == 12abc", 6, "not understood"),
        ("a == None", 6, "quotes"),
        ("a == 1; drop", 7, "not understood"),
        ('a == "\ud800"', 6, "not valid Unicode"),
        ("__import__('os')", 11, "expected =="),
    ],
)
def test_an_error_points_at_its_place(text: str, position: int, hint: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse(text)
    message, shown, caret = str(caught.value).split("\n")
    assert message.startswith(f"filter, character {position}: ")
    assert hint in message
    assert len(caret) - 1 == len("  ") + position - 1
    assert shown.strip() in text.replace("\n", " ")


def test_the_bounds_hold() -> None:
    deep = "(" * MAX_DEPTH + "a == 1" + ")" * MAX_DEPTH
    assert parse(deep) == A
    for text in (f"({deep})", "not " * (MAX_DEPTH + 1) + "a == 1"):
        with pytest.raises(FilterError, match="nested deeper"):
            parse(text)
    wide = "a in [" + "1," * 999 + "1]"
    assert isinstance(parse(wide), In)
    with pytest.raises(FilterError, match="1001 values"):
        parse("a in [" + "1," * 1000 + "1]")
    with pytest.raises(FilterError, match=f"at most {MAX_LENGTH}"):
        parse("a == 1".ljust(MAX_LENGTH + 1))


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("year == 2020", True),
        ("year == 2020.0", True),
        ("year > 2019.5 and year < 2020.5", True),
        ("price == 3", True),
        ("big == 9007199254740992", False),
        ("big > 9007199254740992.0", True),
        ("absent == 1", False),
        ("absent != 1", False),
        ("absent in [1]", False),
        ("absent not in [1]", False),
        ("not absent == 1", True),
        ("not absent != 1", True),
        ("flag == true", True),
        ("flag == 1", False),
        ("flag != 1", True),
        ("year == true", False),
        ('year == "2020"', False),
        ('year != "2020"', True),
        ('year < "3"', False),
        ('not year < "3"', True),
        ('name < "乙"', False),
        ('name >= "é"', True),
        ('name < "😀"', True),
        ('name in ["甲"]', True),
        ('document_id == "d" and id == "d#img-0" and kind == "image"', True),
        ('source == "src/d.png" and tenant == "t"', True),
        ("year == 2020 or absent == 1", True),
    ],
)
def test_a_filter_means(text: str, holds: bool) -> None:
    found = part(year=2020, price=3.0, big=2**53 + 1, flag=True, name="甲")  # 甲 is U+7532, 乙 U+4E59
    assert matches(parse(text), found) is holds


def test_a_builtin_field_cannot_be_forged_by_metadata() -> None:
    assert not matches(parse('tenant == "other"'), part(tenant="other"))


@pytest.mark.parametrize(
    "value", ['A" or year > 0 or x == "', "A' or '", "A\\", 'A\\"', "line\nbreak", "`and`", "型号 1", ""]
)
def test_a_value_stays_a_value_whatever_it_holds(value: str) -> None:
    assert all_equal({"product_id": value}) == Comparison("product_id", "==", value)


def test_all_of_several_fields_must_equal() -> None:
    assert all_equal({"a": 1, "unit price": 2.5, "new": True}) == And(
        (A, Comparison("unit price", "==", 2.5), Comparison("new", "==", True))
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "names no field"),
        ({"a` == 1 or `b": 1}, "backtick"),
        ({"": 1}, "expected a field|not understood|does not end"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({"colour": None}, "colour is to equal None; give it a str, a finite int or float, or a bool"),
        ({"colour": float("nan")}, "colour is to equal nan; give"),
        ({"colour": -math.inf}, "colour is to equal -inf; give"),
        ({"b": 1, "colour": ["red", ["blue"]]}, r"colour is to equal \['red', \['blue'\]\]; give"),
        ({"colour": {"red": 1}}, "colour is to equal .*; give"),
        ({"colour": np.int64(3)}, r"colour is to equal np\.int64\(3\); give"),
        ({"a": "x" * MAX_LENGTH}, "characters"),
    ],
)
def test_what_cannot_be_said_is_no_filter(values: dict[str, Scalar], message: str) -> None:
    with pytest.raises(FilterError, match=message):
        all_equal(values)


def test_a_float_of_numpy_is_the_number() -> None:
    assert all_equal({"a": np.float64(2.5)}) == Comparison("a", "==", 2.5)


def test_fields_names_all_fields() -> None:
    assert fields(parse("not (a == 1 or b in [1]) and a > 2")) == {"a", "b"}


def test_check_accepts_known_fields_and_types() -> None:
    schema = {"year": "int", "price": "float", "name": "str", "flag": "bool"}
    check(parse('year > 2.5 and price == 3 and name != "x" and flag == true and tenant in ["a"]'), schema)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yaer > 1", "no field 'yaer'; did you mean year?.*document_id.*tenant, year"),
        ("zzz > 1", "no field 'zzz'; it has"),
        ('year == "2020"', 'year holds numbers, but is compared with "2020"'),
        ("year in [1, true]", "compared with true"),
        ("flag == 1", "flag holds true or false"),
        ("kind == 1", "kind holds strings"),
        ("not (year > 1 and yaer > 1)", "yaer"),
    ],
)
def test_check_refuses(text: str, message: str) -> None:
    with pytest.raises(FilterError, match=message):
        check(parse(text), {"year": "int", "flag": "bool"})


@pytest.mark.parametrize("refused", ["nope == 1", 'year != "x"', "year in [1, true]", "nope not in [1]"])
def test_what_check_refuses_is_false_for_who_may_not_learn_the_fields(refused: str) -> None:
    schema, part = {"year": "int"}, Part("d#txt-0", "chunk", "d", "s", metadata={"year": 2020})
    for text, holds in (
        (refused, False),
        (f"not {refused}", True),
        (f"{refused} or year == 2020", True),
        (f"{refused} and year == 2020", False),
    ):
        where = answerable(parse(text), schema)
        check(where, schema)
        assert matches(where, part) is holds
    assert answerable(parse("not year > 1"), schema) == parse("not year > 1")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('kind == "image"', None),
        ('kind == "image" and a == 1', "a == 1"),
        ('kind == "image" and a == 1 and b == 1', "a == 1 and b == 1"),
        ('kind == "image" or a == 1', None),
        ('not (kind == "image" and a == 1) and b == 1', "b == 1"),
        ("a == 1 or b == 1", "a == 1 or b == 1"),
    ],
)
def test_a_filter_without_a_field_keeps_at_least_what_it_kept(text: str, left: str | None) -> None:
    assert without(parse(text), "kind") == (parse(left) if left else None)


_NAMES = st.text(st.characters(exclude_characters="`\n", exclude_categories=["Cs"]), min_size=1, max_size=8)
_STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_LEAVES = (
    st.builds(Comparison, _NAMES, st.sampled_from(["==", "!=", "<", ">="]), _STRINGS | _NUMBERS)
    | st.builds(Comparison, _NAMES, st.just("=="), st.booleans())
    | st.builds(
        In, _NAMES, st.lists(_STRINGS | _NUMBERS | st.booleans(), min_size=1).map(tuple), st.booleans()
    )
)


def _combine(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.builds(And, several) | st.builds(Or, several) | st.builds(Not, inner)


@settings(max_examples=150, deadline=None)
@given(st.recursive(_LEAVES, _combine, max_leaves=6))
def test_what_is_rendered_parses_back(where: Filter) -> None:
    if len(render(where)) <= MAX_LENGTH:
        assert parse(render(where)) == where


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("ab1.\"'`\\()[],=!<> \nandornotintrue甲"), max_size=30))
def test_any_text_parses_or_is_a_filter_error(text: str) -> None:
    try:
        where = parse(text)
    except FilterError:
        return
    assert parse(render(where)) == where
