"""A text -> the tokens by which texts are compared. Pure.

Tokens are those of SQuAD's script (Rajpurkar et al., EMNLP 2016, `evaluate-v1.1.py`): lower case, punctuation
taken out, split at blanks; and, as in MLQA's script (Lewis et al., ACL 2020) for Chinese, each Chinese
character is one. Other than there, a point inside a number and a sign before it stay, so that 3.5 is not 35,
nor -5 the same as 5. Full-width characters count as their usual ones (NFKC).
"""

from __future__ import annotations

import re
import string
import unicodedata

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_MINUS = str.maketrans("−‐‑–", "----")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_OF_A_NUMBER = re.compile(r"(?<=\d)\.(?=\d)|(?<![a-z0-9)\]])-(?=\d)")
_CHARACTER = re.compile(f"[{HAN}]")

Tokens = list[str]


def tokens(text: str) -> Tokens:
    """Articles are among them."""
    plain = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower().translate(_MINUS))
    kept = {mark.start() for mark in _OF_A_NUMBER.finditer(plain)}
    words = "".join(one for at, one in enumerate(plain) if at in kept or not _is_punctuation(one))
    return _CHARACTER.sub(r" \g<0> ", words).split()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
