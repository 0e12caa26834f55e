"""How much of a reference answer stands in an answer: exact match, token F1, ROUGE-L. Pure: knows texts only.

Token by token; an answer that is nothing but an article, such as A of four choices, stays one. Of several
references the best counts. Figures are from 0 to 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pipelines.core.tokens import Tokens, tokens

_ARTICLES = {"a", "an", "the"}


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
