"""Settings that may be `off`. Knows no setting."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BeforeValidator


def _word(value: Any) -> Any:
    return "off" if value is False else value


MAY_BE_OFF: Final = BeforeValidator(_word)
"""For a Literal that has "off": YAML reads the bare word as false."""
