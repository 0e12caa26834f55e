"""The one filter language: parse it, check it against an index, decide it for one part.

`product_id == "A1" and year >= 2020`. Knows no store: each store translates the tree itself and
must agree with `matches`, which is the meaning of the language:

- a comparison with a field that the part does not have is false, `!=` and `not in` too;
- `not` is plain negation, so `not year > 2020` holds where there is no year;
- whole numbers and floats compare by value, strings by code point; true and false are not numbers;
- values of different types are unequal and have no order.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeGuard, cast

from pipelines.core.errors import FilterError
from pipelines.core.types import Part, Scalar

Operator = Literal["==", "!=", "<", "<=", ">", ">="]

MAX_LENGTH: Final = 4096
MAX_DEPTH: Final = 32
MAX_LIST: Final = 1000

# What every part has. A metadata field of the same name cannot be reached by a filter.
BUILTIN_FIELDS: Final[Mapping[str, str]] = {
    "document_id": "str",
    "source": "str",
    "tenant": "str",
    "id": "str",
    "kind": "str",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    field: str
    op: Operator
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """`field in [...]`, or with `negated` `field not in [...]`, which is false where the field is missing."""

    field: str
    values: tuple[Scalar, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    operand: Filter


Filter = Comparison | In | And | Or | Not


def parse(text: str) -> Filter:
    """The filter that `text` says. FilterError points at the place that is wrong."""
    return _Parser(text).parse()


def all_equal(values: Mapping[str, Scalar]) -> Filter:
    """The filter that every field equals its value, whatever characters the value holds: none widens it.

    Raises FilterError where no field is given, and for what the language cannot say.
    """
    if not values:
        raise FilterError("the filter names no field; to search all, leave it out")
    for field, value in values.items():
        if not isinstance(value, Scalar) or (isinstance(value, float) and not math.isfinite(value)):
            raise FilterError(
                f"filter: {field} is to equal {repr(value)[:100]}; give it a str, a finite int or float, or "
                "a bool, or leave the field out"
            )
    return parse(" and ".join(render(Comparison(field, "==", value)) for field, value in values.items()))


def fields(where: Filter) -> set[str]:
    """The names of all fields that the filter reads."""
    return {leaf.field for leaf in _leaves(where)}


def values(part: Part) -> dict[str, Scalar]:
    """Every field of the part that a filter can read, by name."""
    return {
        **part.metadata,
        "document_id": part.document_id,
        "source": part.source,
        "tenant": part.tenant,
        "id": part.id,
        "kind": part.kind,
    }


def matches(where: Filter, part: Part) -> bool:
    """Whether the filter holds for the part: the reference that every store must agree with."""
    return _holds(where, values(part))


def equal(left: Scalar, right: Scalar) -> bool:
    """Equality of the language: numbers by value, anything else within its own type."""
    if is_number(left) and is_number(right):
        return left == right
    return type(left) is type(right) and left == right


def is_number(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check(where: Filter, schema: Mapping[str, str]) -> None:
    """Raise FilterError for a field that the index does not have, or a value of another type.

    `schema` maps the index's metadata fields to "str", "int", "float" or "bool".
    """
    for leaf in _leaves(where):
        if wrong := fault(leaf, schema):
            raise FilterError(wrong)


def fault(leaf: Comparison | In, schema: Mapping[str, str]) -> str:
    """Why `check` refuses this comparison; empty where it does not."""
    known = {**schema, **BUILTIN_FIELDS}
    if leaf.field not in known:
        return _unknown_field(leaf.field, known)
    holds = _family(known[leaf.field])
    for value in leaf.values if isinstance(leaf, In) else (leaf.value,):
        if _family(type(value).__name__) != holds:
            return f"filter: {leaf.field} holds {_PLURAL[holds]}, but is compared with {render_value(value)}"
    return ""


def render(where: Filter) -> str:
    """The expression that parses to this filter."""
    match where:
        case Comparison(field, op, value):
            return f"{_render_field(field)} {op} {render_value(value)}"
        case In(field, members, negated):
            listed = ", ".join(render_value(value) for value in members)
            return f"{_render_field(field)} {'not in' if negated else 'in'} [{listed}]"
        case Not(operand):
            return f"not {_render_operand(operand)}"
        case And(operands):
            return " and ".join(_render_operand(operand) for operand in operands)
        case Or(operands):
            return " or ".join(_render_operand(operand) for operand in operands)


def render_value(value: Scalar) -> str:
    """The value as a literal of the language."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.translate(_ESCAPES) + '"'
    return repr(float(value) if isinstance(value, float) else int(value))  # a subclass has words of its own


_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"},
)
_BLANKS: Final = str.maketrans("\n\r\t", "   ")
_PLURAL: Final = {"str": "strings", "number": "numbers", "bool": "true or false"}
_ORDER: Final[Mapping[Operator, Callable[[int], bool]]] = {
    "<": lambda sign: sign < 0,
    "<=": lambda sign: sign <= 0,
    ">": lambda sign: sign > 0,
    ">=": lambda sign: sign >= 0,
}


def _leaves(where: Filter) -> Iterator[Comparison | In]:
    match where:
        case And(operands) | Or(operands):
            for operand in operands:
                yield from _leaves(operand)
        case Not(operand):
            yield from _leaves(operand)
        case Comparison() | In():
            yield where


def _holds(where: Filter, found: Mapping[str, Scalar]) -> bool:
    match where:
        case And(operands):
            return all(_holds(operand, found) for operand in operands)
        case Or(operands):
            return any(_holds(operand, found) for operand in operands)
        case Not(operand):
            return not _holds(operand, found)
        case In(field, members, negated):
            if field not in found:
                return False
            return negated != any(equal(found[field], value) for value in members)
        case Comparison(field, op, value):
            return field in found and _compare(found[field], op, value)


def _compare(left: Scalar, op: Operator, right: Scalar) -> bool:
    if op == "==":
        return equal(left, right)
    if op == "!=":
        return not equal(left, right)
    if is_number(left) and is_number(right):
        if left != left or right != right:  # NaN has no order
            return False
        return _ORDER[op]((left > right) - (left < right))
    if isinstance(left, str) and isinstance(right, str):
        return _ORDER[op]((left > right) - (left < right))
    return False


def _family(type_name: str) -> str:
    return "number" if type_name in {"int", "float"} else type_name


def _unknown_field(name: str, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"filter: this index has no field {name!r}; {hint}it has {', '.join(sorted(known))}"


def _render_operand(where: Filter) -> str:
    return f"({render(where)})" if isinstance(where, And | Or) else render(where)


def _render_field(name: str) -> str:
    plain = re.fullmatch(_TOKEN, name)
    bare = plain is not None and plain.lastgroup == "name" and name.lower() not in _KEYWORDS
    if "`" in name or "\n" in name:
        raise FilterError(f"filter: the name of a field cannot hold a backtick or a line break: {name!r}")
    return name if bare else f"`{name}`"


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.]))
    |(?P<name>[^\W\d][\w.-]*)
    |(?P<quoted>`[^`\n]+`)
    |(?P<op>==|!=|<=|>=|<|>)
    |(?P<mark>[()\[\],])""",
    re.VERBOSE,
)
_KEYWORDS: Final = frozenset({"and", "or", "not", "in", "true", "false"})
_UNESCAPE: Final = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_HINTS: Final = {
    "=": "use ==",
    "&": "use and",
    "|": "use or",
    "!": "use not, or !=",
    '"': "the string does not end",
    "'": "the string does not end",
    "`": "the field name does not end",
    "+": "a number has no + sign",
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


class _Parser:
    """Recursive descent: or < and < not < comparison. `depth` counts open parentheses and nots."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokens()
        self.next = 0
        self.depth = 0

    def parse(self) -> Filter:
        where = self._or()
        if self._peek().kind != "end":
            raise self._error(self._peek(), "expected and, or, or the end")
        return where

    def _tokens(self) -> list[_Token]:
        if len(self.text) > MAX_LENGTH:
            raise FilterError(f"filter: {len(self.text)} characters; at most {MAX_LENGTH} are allowed")
        found, at = [], 0
        while at < len(self.text):
            token = _TOKEN.match(self.text, at)
            if token is None or token.lastgroup is None:
                raise self._error(
                    _Token("bad", self.text[at], at), _HINTS.get(self.text[at], "this is not understood")
                )
            if token.lastgroup != "space":
                word = token.group().lower()
                kind = word if token.lastgroup == "name" and word in _KEYWORDS else token.lastgroup
                found.append(_Token(kind, token.group(), at))
            at = token.end()
        return [*found, _Token("end", "", len(self.text))]

    def _or(self) -> Filter:
        operands = [self._and()]
        while self._take("or"):
            operands.append(self._and())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _and(self) -> Filter:
        operands = [self._not()]
        while self._take("and"):
            operands.append(self._not())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _not(self) -> Filter:
        opening = self._take("not") or self._take("(")
        if not opening:
            return self._comparison()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(opening, f"nested deeper than {MAX_DEPTH}")
        if opening.kind == "not":
            inner: Filter = Not(self._not())
        else:
            inner = self._or()
            self._expect(")", "expected )")
        self.depth -= 1
        return inner

    def _comparison(self) -> Filter:
        name = self._take("name") or self._take("quoted")
        if not name:
            raise self._error(self._peek(), "expected a field name, not or (")
        field = name.text.strip("`")
        negated = self._take("not") is not None
        if self._take("in"):
            return In(field, self._list(), negated)
        if negated:
            raise self._error(self._peek(), "expected in after not")
        op = self._expect("op", "expected ==, !=, <, <=, >, >=, in or not in")
        value = self._value()
        if isinstance(value, bool) and op.text not in ("==", "!="):
            raise self._error(op, "true and false have no order; use == or !=")
        return Comparison(field, cast(Operator, op.text), value)

    def _list(self) -> tuple[Scalar, ...]:
        opening = self._expect("[", 'expected a list such as ["a", "b"]')
        members = [self._value()]
        while self._take(","):
            members.append(self._value())
        self._expect("]", "expected , or ]")
        if len(members) > MAX_LIST:
            raise self._error(opening, f"{len(members)} values; at most {MAX_LIST} are allowed")
        return tuple(members)

    def _value(self) -> Scalar:
        token = self._peek()
        self.next += 1
        if token.kind in ("true", "false"):
            return token.kind == "true"
        if token.kind == "string":
            return self._string(token)
        if token.kind == "number":
            return self._number(token)
        hint = "a string stands in quotes" if token.kind in ("name", "quoted") else "expected a value"
        raise self._error(token, hint)

    def _string(self, token: _Token) -> str:
        def unescape(escape: re.Match[str]) -> str:
            if escape[1] not in _UNESCAPE:
                raise self._error(token, f"unknown escape \\{escape[1]} in the string")
            return _UNESCAPE[escape[1]]

        value = re.sub(r"\\(.)", unescape, token.text[1:-1], flags=re.DOTALL)
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise self._error(token, "the string is not valid Unicode")
        return value

    def _number(self, token: _Token) -> int | float:
        value = float(token.text) if set(token.text) & set(".eE") else int(token.text)
        if abs(value) == math.inf or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise self._error(token, "the number does not fit in 64 bits")
        return value

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _take(self, kind: str) -> _Token | None:
        token = self._peek()
        if token.kind != kind and (token.kind != "mark" or token.text != kind):
            return None
        self.next += 1
        return token

    def _expect(self, kind: str, hint: str) -> _Token:
        return self._take(kind) or self._raise(hint)

    def _raise(self, hint: str) -> NoReturn:
        raise self._error(self._peek(), hint)

    def _error(self, token: _Token, hint: str) -> FilterError:
        start = max(0, token.at - 60)
        shown = self.text[start : token.at + 20].translate(_BLANKS)
        caret = " " * (token.at - start) + "^"
        return FilterError(f"filter, character {token.at + 1}: {hint}\n  {shown}\n  {caret}")
