"""A filter in other forms: for who may not learn what an index holds, and for one side of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipelines.core.filters import And, Comparison, Filter, In, Not, Or, fault, fields

_NEVER: Final = Comparison("id", "==", "")  # every part has an id


def answerable(where: Filter, schema: Mapping[str, str]) -> Filter:
    """The filter with every comparison false that `filters.check` refuses, as one with a missing field is.

    It tells nobody which fields there are, nor their types.
    """
    match where:
        case And(operands):
            return And(tuple(answerable(operand, schema) for operand in operands))
        case Or(operands):
            return Or(tuple(answerable(operand, schema) for operand in operands))
        case Not(operand):
            return Not(answerable(operand, schema))
        case Comparison() | In():
            return _NEVER if fault(where, schema) else where


def without(where: Filter | None, field: str) -> Filter | None:
    """What of the filter does not turn on `field`: it keeps all that the filter keeps, and maybe more. None:
    everything."""
    if where is None:
        return None
    if isinstance(where, And):
        left = tuple(kept for operand in where.operands if (kept := without(operand, field)))
        return left[0] if len(left) == 1 else And(left) if left else None
    return None if field in fields(where) else where
