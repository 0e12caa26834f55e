"""How much of a reference answer stands in an answer: exact match, token F1, ROUGE-L. Pure: knows texts only.

Tokens are those of SQuAD's script (Rajpurkar et al., EMNLP 2016, `evaluate-v1.1.py`): lower case, punctuation
taken out, split at blanks; and, as in MLQA's script (Lewis et al., ACL 2020) for Chinese, each Chinese
character is one. Other than there, a point inside a number and a sign before it stay, so that 3.5 is not 35,
nor -5 the same as 5; an answer that is nothing but an article, such as A of four choices, stays too.
Full-width characters count as their usual ones (NFKC).

Of several references the best counts. Figures are from 0 to 1.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_ARTICLES = {"a", "an", "the"}
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


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is a reference, word by word, articles aside; else 0."""
    return _best(lambda said, wanted: float(said == wanted), _content(answer), map(_content, references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of tokens, each as often as it stands there, articles aside;
    of two of which one has no token, 1 where both have none (SQuAD 2.0)."""
    return _best(_f1, _content(answer), map(_content, references))


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """ROUGE-L (Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, eq. 2–4) with β = 1: the
    harmonic mean of the longest common subsequence's shares of both token sequences, articles among them."""
    return _best(_rouge_l, tokens(answer), map(tokens, references))


def _best(measure: Callable[[Tokens, Tokens], float], said: Tokens, references: Iterable[Tokens]) -> float:
    return max(measure(said, wanted) for wanted in references)


def _content(text: str) -> Tokens:
    every = tokens(text)
    return [token for token in every if token not in _ARTICLES] or every


def _f1(said: Tokens, wanted: Tokens) -> float:
    if not said or not wanted:
        return float(said == wanted)
    return _harmonic((Counter(said) & Counter(wanted)).total(), len(said), len(wanted))


def _rouge_l(said: Tokens, wanted: Tokens) -> float:
    if not said or not wanted:
        return 0.0
    return _harmonic(_common_subsequence(said, wanted), len(said), len(wanted))


def _harmonic(shared: int, said: int, wanted: int) -> float:
    return 2 * shared / (said + wanted)  # = 2PR / (P + R) with P = shared / said, R = shared / wanted


def _common_subsequence(one: Tokens, other: Tokens) -> int:
    """The length of the longest, in any places, in order."""
    lengths = [0] * (len(other) + 1)
    for token in one:
        above_left = 0
        for at, opposite in enumerate(other, start=1):
            above = lengths[at]
            lengths[at] = above_left + 1 if token == opposite else max(above, lengths[at - 1])
            above_left = above
    return lengths[-1]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")
