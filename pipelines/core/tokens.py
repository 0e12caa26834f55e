"""A text -> the tokens by which texts are compared. Pure.

Tokens are those of SQuAD's script (Rajpurkar et al., EMNLP 2016, `evaluate-v1.1.py`): lower case, punctuation
taken out, split at blanks; and, as in MLQA's script (Lewis et al., ACL 2020) for Chinese, each Chinese
character is one. Full-width characters count as their usual ones (NFKC). It differs from SQuAD's, which makes
12 of 1/2 and 5 of <5, in what makes a value another one:

- punctuation between two digits stays (3.5, 1/2, 10-20, 3:4, 2^3), but a comma or semicolon: it is taken out
  of 1,000 and parts 3,5;
- so does `/`, `^` or `+` between letters or digits (m/s, x^2), a minus before a number, and `<`, `>`, `<=` or
  `>=` before one;
- a text of punctuation alone is its own words.
"""

from __future__ import annotations

import re
import string
import unicodedata

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_USUAL = str.maketrans(dict.fromkeys("−‐‑–", "-") | {"⁄": "/", "≤": "<=", "≥": ">="})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LISTED = re.compile(r"[、。]|(?<=\d)[,;](?=\d)")
_COMPARED = re.compile(r"(?<![-=<>])([<>]=?)[^\S\n]+(?=-?\d)")
_OF_A_VALUE = re.compile(
    r"(?<=\d)[^\w\s]+(?=\d)|(?<=[a-z0-9])[/^+](?=[a-z0-9])|(?<![a-z0-9)\]])-(?=\d)|(?<![-=<>])[<>]=?(?=-?\d)"
)
_CHARACTER = re.compile(f"[{HAN}]")

Tokens = list[str]


def tokens(text: str) -> Tokens:
    """Articles are among them."""
    plain = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower().translate(_USUAL))
    plain = _COMPARED.sub(r"\1", _LISTED.sub(" ", plain))
    kept = {at for value in _OF_A_VALUE.finditer(plain) for at in range(*value.span())}
    words = "".join(one for at, one in enumerate(plain) if at in kept or not _is_punctuation(one))
    return _CHARACTER.sub(r" \g<0> ", words).split() or plain.split()


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
