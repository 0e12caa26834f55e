"""A filter as a Milvus expression, for Milvus 2.3 and later and milvus-lite alike. Knows no client.

Metadata is searched in Milvus's dynamic field, because milvus-lite evaluates that one by columns and
a JSON field row by row: 20 times slower over 20,000 rows. Where a key is missing, the engines
disagree about a comparison (false, unknown, or for `!=` true), so each one is guarded by `exists`,
which all of them decide alike; that makes it two-valued, and `not` around it plain. One difference
remains: milvus-lite takes true for the number 1. `filters.check` refuses such a comparison before
it comes here.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.core.filters import BUILTIN_FIELDS, And, Comparison, Filter, In, Not, Or, render_value
from pipelines.core.types import Metadata, Scalar

_PREFIX = "m:"
_NOTHING, _EVERYTHING = '(key == "")', '(key != "")'


def expression(where: Filter) -> str:
    """The expression whose rows are exactly those that `filters.matches`."""
    match where:
        case And(operands):
            return _join(" and ", map(expression, operands))
        case Or(operands):
            return _join(" or ", map(expression, operands))
        case Not(operand):
            return f"(not {expression(operand)})"
        case In(field, members, negated):
            if field in BUILTIN_FIELDS:
                return _builtin_in(field, members, negated)
            found = _join(" or ", (f"{_path(field)} == {literal(value)}" for value in members))
            return _guarded(field, f"(not {found})" if negated else found)
        case Comparison(field, op, value):
            if field in BUILTIN_FIELDS:
                if isinstance(value, str):
                    return f"({field} {op} {literal(value)})"
                return _EVERYTHING if op == "!=" else _NOTHING
            if op == "!=":
                return _guarded(field, f"(not ({_path(field)} == {literal(value)}))")
            return _guarded(field, f"({_path(field)} {op} {literal(value)})")


def dynamic_fields(metadata: Metadata) -> dict[str, Scalar]:
    """The metadata as the dynamic fields that `expression` reads. The prefix keeps them off our own."""
    return {_PREFIX + name: value for name, value in metadata.items()}


def literal(value: Scalar) -> str:
    """The value as Milvus reads it, which is as our language does: the same quotes and escapes."""
    return render_value(value)


def one_of(field: str, members: Iterable[str]) -> str:
    """Rows whose string field is one of `members`."""
    return f"{field} in [{','.join(map(literal, members))}]"


def _path(field: str) -> str:
    return f"$meta[{literal(_PREFIX + field)}]"


def _guarded(field: str, comparison: str) -> str:
    return f"((exists {_path(field)}) and {comparison})"


def _builtin_in(field: str, members: tuple[Scalar, ...], negated: bool) -> str:
    strings = [value for value in members if isinstance(value, str)]
    if not strings:
        return _EVERYTHING if negated else _NOTHING
    return f"(not ({one_of(field, strings)}))" if negated else f"({one_of(field, strings)})"


def _join(operator: str, operands: Iterable[str]) -> str:
    """A balanced tree: a chain of 1,000 is nested 1,000 deep on the wire, and protobuf allows 100."""
    level = [f"({operand})" for operand in operands]
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [f"({operator.join(pair)})" if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]
