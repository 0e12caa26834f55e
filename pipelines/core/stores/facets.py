"""Filters for engines that only match terms: each field value becomes a term, each filter a plan over terms.

Both lexical engines index one list of terms a part. One field holds them all, so there is no
mapping to explode, no type conflict between two values of one name, and no name or value that
could be read as query syntax: a term is letters and digits only. A part with year 2020 has
`<hex of year>p` (the field is present) and `<hex of year>n<sortable hex of 2020>`. Hex keeps the
order of the bytes, and UTF-8 keeps the order of the code points, so ranges over terms are ranges
over values.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pipelines.core.filters import And, Comparison, Filter, In, Not, Operator, Or, is_number, values
from pipelines.core.types import Part, Scalar

_PRESENT, _STRING, _NUMBER, _BOOL = "p", "s", "n", "t"
_AFTER_HEX = "z"


@dataclass(frozen=True, slots=True)
class AnyTerm:
    """Parts that have one of these terms."""

    terms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TermRange:
    """Parts that have a term between two bounds."""

    lower: str
    upper: str
    include_lower: bool
    include_upper: bool


@dataclass(frozen=True, slots=True)
class All:
    """Parts that satisfy every one of `plans` and none of `without`."""

    plans: tuple[Plan, ...]
    without: tuple[Plan, ...] = ()


@dataclass(frozen=True, slots=True)
class Any:
    """Parts that satisfy at least one of `plans`."""

    plans: tuple[Plan, ...]


Plan = AnyTerm | TermRange | All | Any


def terms(part: Part) -> list[str]:
    """The terms to index for the part."""
    return [
        term
        for name, value in values(part).items()
        for term in (_prefix(name) + _PRESENT, _term(name, value))
    ]


def plan(where: Filter) -> Plan:
    """The plan whose parts are exactly those that `filters.matches`."""
    match where:
        case And(operands):
            return All(tuple(plan(operand) for operand in operands))
        case Or(operands):
            return Any(tuple(plan(operand) for operand in operands))
        case Not(operand):
            return All((), without=(plan(operand),))
        case In(field, members, negated):
            found = AnyTerm(tuple(dict.fromkeys(_term(field, value) for value in members)))
            return All((_present(field),), without=(found,)) if negated else found
        case Comparison(field, "==", value):
            return AnyTerm((_term(field, value),))
        case Comparison(field, "!=", value):
            return All((_present(field),), without=(AnyTerm((_term(field, value),)),))
        case Comparison(field, op, value):
            return _range(field, op, value)


def _present(field: str) -> Plan:
    return AnyTerm((_prefix(field) + _PRESENT,))


def _range(field: str, op: Operator, value: Scalar) -> Plan:
    term = _term(field, value)
    tag = _prefix(field) + (_NUMBER if is_number(value) else _STRING if isinstance(value, str) else _BOOL)
    if op.startswith("<"):
        return TermRange(tag, term, include_lower=True, include_upper=op == "<=")
    return TermRange(term, tag + _AFTER_HEX, include_lower=op == ">=", include_upper=False)


def _prefix(name: str) -> str:
    return name.encode().hex()


def _term(name: str, value: Scalar) -> str:
    if isinstance(value, bool):
        return f"{_prefix(name)}{_BOOL}{value:d}"
    if isinstance(value, str):
        return _prefix(name) + _STRING + value.encode().hex()
    return _prefix(name) + _NUMBER + _sortable(value)


def _sortable(number: float) -> str:
    """20 hex digits that sort as the number does, equal for 1 and 1.0, exact for any 64-bit integer.

    The nearest double, with its sign bit flipped (all bits, if negative), sorts as unsigned; what
    an integer loses in it is at most 512 and follows as the second part.
    """
    nearest = float(number) + 0.0  # -0.0 becomes 0.0
    bits: int = struct.unpack(">Q", struct.pack(">d", nearest))[0]
    bits = bits ^ (2**64 - 1) if bits >> 63 else bits | 1 << 63
    rest = number - int(nearest) if isinstance(number, int) else 0
    return f"{bits:016x}{rest + 0x8000:04x}"
