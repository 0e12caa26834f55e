"""Chinese and English text to searchable words, the same for an index and a query. Knows no engine."""

from __future__ import annotations

import logging
import re
import threading
import unicodedata
from functools import cache
from typing import Any, Final

import jieba

_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN: Final = re.compile(f"(?P<han>[{_HAN}]+)|[^\\W_{_HAN}]+")
_LOADING: Final = threading.Lock()


def words(text: str) -> list[str]:
    """Words in reading order, lower case, full-width forms made plain; [] where there is none.

    Chinese is cut by jieba's dictionary, long words also into the words inside them.
    """
    found: list[str] = []
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        if run["han"]:
            with _LOADING:
                segmenter = _segmenter()
            found.extend(segmenter.cut_for_search(run["han"]))
        else:
            found.append(run[0])
    return found


@cache
def _segmenter() -> Any:
    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # Not `initialize()`: that unmarshals a cache from a directory that every user can write to,
    # and saves no more than a fifth of a second.
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter
