"""What is wrong with data that somebody wrote, in words that ask for no Python. Knows pydantic's errors, and
not what the data are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError

_OBJECT: Final = "wanted an object, in braces"
_LIST: Final = "wanted a list, in brackets"
_WHOLE: Final = "wanted a whole number"
_NUMBER: Final = "wanted a number"
_FLAG: Final = "wanted true or false"

_WORDS: Final[Mapping[str, str]] = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field",
    "model_type": _OBJECT,
    "dict_type": _OBJECT,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "string_type": "wanted text, in quotes",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "wanted a finite number",
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
}

_COUNTED: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "too_long": lambda found: f"wanted {found['max_length']} values at most, not {found['actual_length']}",
    "string_too_short": lambda found: (
        f"wanted {found['min_length']} characters at least" if found["min_length"] > 1 else "is empty"
    ),
    "literal_error": lambda found: f"wanted {found['expected']}",
    "value_error": lambda found: str(found["error"]),
    "json_invalid": lambda found: f"no JSON ({found['error']})",
}
"""By what pydantic tells of these."""


def complaint(exc: ValidationError) -> str:
    """One line of the first problem: where it is, unless it is the whole, and what."""
    problem = exc.errors()[0]
    field = ".".join(str(part) for part in problem["loc"])
    return f"{field + ': ' if field else ''}{_words(problem)}"


def _words(problem: Any) -> str:
    kind = problem["type"]
    if kind in _COUNTED:
        return _COUNTED[kind](problem["ctx"])
    return _WORDS.get(kind) or str(problem["msg"]).removeprefix("Input ")
