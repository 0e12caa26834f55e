"""Plain text on one line: what stores refuse and nobody sees is gone. Pure."""

from __future__ import annotations

import re

# Control characters, lone surrogates, byte-order marks, soft hyphens and zero-width spaces: none can be
# seen, some cannot be stored, and all of them keep a word from being found. (U+200D joins emoji: it stays.)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]"
)
_CJK = "\u3001-\u303f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
# A line break inside Chinese text is layout, not a space between words. The ideographic space, U+3000, is
# left out: as white space that may stand before a break too, each of many would be tried to their end.
_CJK_BREAK = re.compile(rf"(?<=[{_CJK}])[^\S\n]*\n\s*(?=[{_CJK}])")
_SPACE = re.compile(r"\s+")


def storable(text: str) -> str:
    """The text without the characters that stores refuse or people cannot see."""
    return _INVISIBLE.sub("", text)


def tidy(text: str) -> str:
    """One line: white space collapsed, invisible characters gone."""
    return _SPACE.sub(" ", _CJK_BREAK.sub("", storable(text))).strip()
