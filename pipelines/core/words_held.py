"""Passages that words found, by how many of the question's words each holds. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pipelines.core.stores.words import HAN, plain, query_words, stemmer
from pipelines.core.types import Found

_CHINESE: Final = re.compile(f"[{HAN}]")
_OTHERS: Final = re.compile(f"[^\\W_{HAN}]+")


def by_words_held(question: str, found: Sequence[Found]) -> list[Found]:
    """What words found, best first, scored from 0 to 1: BM25 in shares of its best, as engines scale it
    differently, times the root of the share of the question's words that the passage holds.

    One rare word can make the best BM25; the share tells how much that best is worth. It is the coordination
    factor of Lucene's classic similarity; its root was chosen on judged sets (benchmarks/quality.md).
    """
    best = max((one.score for one in found), default=0.0) or 1.0
    held = shares_held(question, [one.part.text for one in found])
    scored = [
        replace(one, score=one.score / best * share**0.5) for one, share in zip(found, held, strict=True)
    ]
    return sorted(scored, key=lambda one: -one.score)


def shares_held(question: str, texts: Sequence[str]) -> list[float]:
    """Of a question's words the share that each text holds, above 0 to 1: English ones by their stem, Chinese
    ones wherever their characters stand together. The texts were found by words, so each holds one at least,
    be it in a form that the engine alone knows."""
    stems = stemmer().analyze
    asked = set(stems(" ".join(query_words(question))))

    def held(text: str) -> int:
        usual = plain(text)
        words = set(stems(" ".join(set(_OTHERS.findall(usual)))))
        return sum(word in words or bool(_CHINESE.match(word) and word in usual) for word in asked)

    return [max(1, held(text)) / max(1, len(asked)) for text in texts]
