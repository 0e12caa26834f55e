"""Chinese and English text to searchable words, the same for an index and a query. Knows no store."""

from __future__ import annotations

import logging
import re
import threading
import unicodedata
from functools import cache
from typing import Any, Final

import jieba

HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN: Final = re.compile(f"(?P<han>[{HAN}]+)|[^\\W_{HAN}]+")

_STOP_ENGLISH: Final = """
    a about an and any are as at be been but by can could did do does for from had has have how i if in into
    is it its me my no not of on or our please shall should so such that the their them then there these
    they this those to was we were what when where which who whom whose why will with would you your"""
_STOP_CHINESE: Final = """
    一 一个 一下 不 与 中 为 为什么 之 也 了 于 什么 他 以 们 会 但 你 几 到 及 可 可以
    可否 吗 吧 呢 和 哪 哪一 哪一个 哪个 哪些 哪种 哪里 啊 在 多少 她 如何 它 就 怎么 怎么样 怎样 想 我
    我们 或 所 把 是 有 有没有 来 某 没 没有 的 看 着 等 给 能 能否 被 要 让 请 请问 谁
    还 这 这个 这些 那 那个 那些 都 里"""
STOP_WORDS: Final = frozenset(f"{_STOP_ENGLISH} {_STOP_CHINESE}".split())
_LONGEST_WORD: Final = 128
_LOADING: Final = threading.Lock()


def words(text: str) -> list[str]:
    """Words in reading order, lower case, full-width forms made plain; [] where there is none.

    Chinese is cut by jieba's dictionary, long words also into the words inside them.
    """
    found: list[str] = []
    for run in _RUN.finditer(plain(text)):
        if run["han"]:
            with _LOADING:
                segmenter = _segmenter()
            found.extend(segmenter.cut_for_search(run["han"]))
        else:
            found.append(run[0])
    return found


def query_words(text: str) -> list[str]:
    """The words of a question without those that any passage holds; all of them where it has no others."""
    found = words(text)
    return [word for word in found if word not in STOP_WORDS] or found


def stemmer() -> Any:
    """An analyzer of words that are cut and in lower case: English ones become their stem, holes -> hole."""
    import tantivy  # late: who only knows of searches does without its library

    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        .filter(tantivy.Filter.remove_long(_LONGEST_WORD))
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


def plain(text: str) -> str:
    """Full-width forms made usual, and lower case."""
    return unicodedata.normalize("NFKC", text).lower()


@cache
def _segmenter() -> Any:
    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # Not `initialize()`: that unmarshals a cache from a directory that every user can write to,
    # and saves no more than a fifth of a second.
    segmenter.FREQ, segmenter.total = segmenter.gen_pfdict(segmenter.get_dict_file())
    segmenter.initialized = True
    return segmenter
