"""What a text may hold that is no character: no tokenizer, store or file name takes it. Pure."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def unfit(text: str) -> str:
    """What in the text is no character, in words; "" of a text that is sound."""
    if "\0" in text:
        return "holds a NUL character"
    return "holds half a surrogate pair, which is no character" if _SURROGATE.search(text) else ""
