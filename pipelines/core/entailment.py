"""Whether evidence supports a statement: the port, and the judge that compares words.

Words alone know no negation, no order and no picture: they take "A drives B" for "B drives A". They are a
lower bar that costs nothing; a model behind `evaluate.entailment=judge` reads both.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal, Protocol

from pipelines.core.tokens import HAN, Tokens, tokens
from pipelines.core.types import Hit

NoVerdict = Literal["unseen", "unparsable", "refused", "unanswered"]
"""`unseen`: a picture, or evidence that is not at hand, would have to be seen and was not. Of a judge:
`unparsable`: its reply is no verdict; `refused`: it does not take this request; `unanswered`: it gave no
reply. None is ever counted as right."""

Verdict = Literal["supported", "unsupported"] | NoVerdict

COVERAGE: Final = 0.75
"""Share of a statement's words that its evidence must hold, where nothing else is set."""

_NUMBER = re.compile(r"(?:^-)?\d+(?:\.\d+)*")
_BORDER = re.compile(r"(?<=\d)(?=\D)|(?<=\D)(?=\d)")
_LABEL = re.compile(r"(?<![<>])(?:(?<!\d)[:;,|=]|[:;,|=](?!\d))(?![<>])")
"""What parts `voltage:120V` and the cells of a table; between two digits it belongs to the value."""
_STOP_WORDS = {
    *("a", "an", "the", "of", "to", "in", "on", "at", "by", "for", "with", "from", "as", "is", "are", "was"),
    *("were", "be", "been", "it", "its", "this", "that", "these", "those", "there", "and", "or", "but", "so"),
    *("which", "who", "what", "where", "when", "has", "have", "had", "do", "does", "did", "can", "will"),
    *"的了是在和与及或为有这那其之也都就而于着个以由从到把被等所并则",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of evidence. `picture` is the address of its picture; `has_picture` is known where there is
    no address either."""

    id: str
    text: str
    has_picture: bool = False
    picture: str | None = None


def pieces(hits: Sequence[Hit]) -> dict[int, Piece]:
    """An answer's evidence, by the number it is cited by."""
    return {hit.citation_id: Piece(hit.id, hit.text, hit.kind == "image", hit.image_uri) for hit in hits}


class Entailment(Protocol):
    def __call__(self, statement: str, evidence: Sequence[Piece]) -> Verdict:
        """Whether the pieces together support the statement. Nothing supports anything without evidence."""


class Lexical:
    """By the share of a statement's words that stand in its evidence (K-Precision: Adlakha et al., TACL
    2024, arXiv 2307.16877), stop words aside, Chinese by characters; and all of its numbers must.

    What words do not support, and a picture may, is `unseen`, and so is evidence without any text.
    """

    def __init__(self, coverage: float = COVERAGE) -> None:
        self._coverage = coverage

    def __call__(self, statement: str, evidence: Sequence[Piece]) -> Verdict:
        if not evidence:
            return "unsupported"
        if self._covered(statement, "\n".join(piece.text for piece in evidence)):
            return "supported"
        blind = any(piece.has_picture or not piece.text.strip() for piece in evidence)
        return "unseen" if blind else "unsupported"

    def _covered(self, statement: str, text: str) -> bool:
        there, said = set(_words(text)), _words(statement)
        joined = _same_but_joined(said, there)
        words = {at: word for at, word in enumerate(said) if word not in _STOP_WORDS}
        if not set(_numbers(words.values())) <= set(_numbers(there)):
            return False
        covered = sum(
            word in there or at in joined or _same_but_split(word, there) for at, word in words.items()
        )
        return bool(words) and covered >= self._coverage * len(words)


def _words(text: str) -> Tokens:
    return tokens(_LABEL.sub(" ", unicodedata.normalize("NFKC", text)))


def _numbers(words: Iterable[str]) -> list[float]:
    """What they say, so that 90.0 is 90; of a version such as 1.2.3 its parts."""
    found = [number for word in words for number in _NUMBER.findall(word)]
    return [
        value
        for number in found
        for value in (map(float, number.split(".")) if number.count(".") > 1 else [float(number)])
    ]


def _same_but_split(word: str, there: set[str]) -> bool:
    """`90mm` where `90 mm` stands: all of its parts, or both of a cut (`-5°C`, `90mm²`)."""
    parts = re.findall(rf"\d+(?:\.\d+)*|[^\d{HAN}]+", word)
    cuts = [border.start() for border in _BORDER.finditer(word)]
    return (len(parts) > 1 and all(part in there for part in parts)) or any(
        word[:cut] in there and word[cut:] in there for cut in cuts
    )


def _same_but_joined(said: Sequence[str], there: set[str]) -> set[int]:
    """The places of `90` and `mm` where `90mm` stands. Neighbours only, and the whole of a word: `47` is not
    in `KD-47`, nor is `5 V` in `12V 5A`."""
    pairs = enumerate(pairwise(said))
    return {place for at, pair in pairs if "".join(pair) in there for place in (at, at + 1)}
