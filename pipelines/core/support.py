"""Citation recall and precision of one answer (ALCE: Gao et al., EMNLP 2023, arXiv 2305.14627, 3 and app. A).

Knows an entailment judge by its port; knows no model, file or report.

Recall: the share of statements that the evidence they cite, taken together, supports; a statement without a
citation is not supported. Precision: the share of citations that are relevant. One is where its statement is
supported, and it supports it alone or the others do not without it. An answer that cites nothing has
precision 0, as in ALCE's own script.

A verdict that is none (`entailment.NoVerdict`: a picture that was not seen, say) takes its statement out of
recall, and the citation that it decides out of precision; both are counted, never as right.

ALCE's own script (github.com/princeton-nlp/ALCE, eval.py) differs in one thing: there a statement with a
number of no evidence is not supported, and its citations are left out of precision. Here that number counts
as a citation that is not relevant, and the others decide. Of mmrag's own answers such numbers were taken out
before and counted as `dropped`, so it is answers of others that differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from pipelines.core.entailment import Entailment, Piece, Verdict
from pipelines.core.statements import Statement

_RIGHT: Final = "supported"
_WRONG: Final = "unsupported"


@dataclass(frozen=True, slots=True)
class Support:
    """Statements by verdict. Of the citations, `relevant` is among `decided`; `undecided` are neither."""

    verdicts: Mapping[Verdict, int]
    relevant: int
    decided: int
    undecided: int

    @property
    def recall(self) -> float | None:
        """None where no statement was decided."""
        decided = self.verdicts.get(_RIGHT, 0) + self.verdicts.get(_WRONG, 0)
        return self.verdicts.get(_RIGHT, 0) / decided if decided else None

    @property
    def precision(self) -> float | None:
        """None where the answer cites, and no citation was decided, or where it states nothing."""
        if self.decided:
            return self.relevant / self.decided
        return None if self.undecided or not self.verdicts else 0.0

    @property
    def figures(self) -> dict[str, float]:
        """`citation_recall` and `citation_precision`, each where something was decided."""
        both = {"citation_recall": self.recall, "citation_precision": self.precision}
        return {name: value for name, value in both.items() if value is not None}


def support(statements: Sequence[Statement], evidence: Mapping[int, Piece], entails: Entailment) -> Support:
    """`evidence` by number. A number that is none of these cites nothing, and is not relevant."""
    verdicts: Counter[Verdict] = Counter()
    relevant: Counter[bool | None] = Counter()
    for statement in statements:
        cited = tuple(number for number in statement.cited if number in evidence)

        @cache
        def judged(numbers: tuple[int, ...], text: str = statement.text) -> Verdict:
            return entails(text, [evidence[number] for number in numbers])

        verdict = judged(cited) if cited else _WRONG
        verdicts[verdict] += 1
        relevant[False] += len(statement.cited) - len(cited)
        if verdict == _RIGHT:
            relevant.update(_is_relevant(number, cited, judged) for number in cited)
        else:
            relevant[False if verdict == _WRONG else None] += len(cited)
    return Support(
        verdicts=dict(verdicts),
        relevant=relevant[True],
        decided=relevant[True] + relevant[False],
        undecided=relevant[None],
    )


def _is_relevant(
    number: int, cited: tuple[int, ...], judged: Callable[[tuple[int, ...]], Verdict]
) -> bool | None:
    """Of a supported statement; None where the judge does not decide it."""
    others = tuple(other for other in cited if other != number)
    if not others:
        return True
    alone = judged((number,))
    if alone == _RIGHT:
        return True
    without = judged(others)
    if without == _WRONG:
        return True
    return False if (alone, without) == (_WRONG, _RIGHT) else None
