"""What the stores of an index hold, to compare two indexes by. Knows no job and no kill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.core.index import Index

Rows = dict[str, NDArray[np.float32]]


def stored(index: Index) -> dict[str, Rows]:
    """Of each store the vectors by key; the lexical one has keys alone. A store that counts more rows than it
    shows holds `(unseen)` ones, too."""
    found: dict[str, Rows] = {}
    for name, store in (("visual", index.visual()), ("text", index.text())):
        found[name] = {
            part.key: vector
            for parts, vectors in store.scan()
            for part, vector in zip(parts, vectors, strict=True)
        }
    found["lexical"] = dict.fromkeys(index.lexical().fetch([*found["text"]]), np.empty(0, np.float32))
    for name, rows in found.items():
        unseen = index.stores[name]().count() - len(rows)
        rows |= {f"(unseen) {number}": np.empty(0, np.float32) for number in range(unseen)}
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """What a store lacks of another, what it holds beside, and how far vectors of the same keys are apart."""

    rows: int
    lost: int
    extra: int
    apart: float


def differences(first: dict[str, Rows], second: dict[str, Rows]) -> dict[str, Difference]:
    return {name: _difference(rows, second[name]) for name, rows in first.items()}


def _difference(first: Rows, second: Rows) -> Difference:
    both = first.keys() & second.keys()
    apart = max((float(np.abs(first[key] - second[key]).max(initial=0)) for key in both), default=0.0)
    return Difference(len(first), len(first.keys() - second.keys()), len(second.keys() - first.keys()), apart)
