"""Text about other things, as retrieved evidence often is: English sentences, Chinese words at random.

English comes from Python's own manual (`pydoc_data.topics`, PSF licence; the text of the Python that runs
this), Chinese words from jieba's dictionary (MIT), the frequent ones more often. Knows nothing of evidence.
"""

from __future__ import annotations

import random
import re
from functools import cache
from itertools import accumulate
from pathlib import Path
from pydoc_data.topics import topics

import jieba

from benchmarks.tiny_llava.fields import FIELDS
from benchmarks.tiny_llava.split import Language

_MOST_CHARACTERS = 160
_WORDS = 20_000


def prose(rng: random.Random, language: Language) -> str:
    """20 to 160 characters."""
    if language == "en":
        return rng.choice(_sentences())
    words, sums = _chinese()
    text = ""
    wanted = rng.randrange(12, 60)
    while len(text) < wanted:
        text += "".join(rng.choices(words, cum_weights=sums, k=rng.randrange(3, 8))) + "，"
    return text[:-1] + "。"


@cache
def _sentences() -> tuple[str, ...]:
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = re.findall(r"(?<=[.] )[A-Z][A-Za-z ,'\"()-]+[.](?= )", text)
    fields = re.compile("|".join(field.en for field in FIELDS), re.IGNORECASE)
    short = (one for one in dict.fromkeys(found) if 20 <= len(one) <= _MOST_CHARACTERS)
    return tuple(one for one in short if not fields.search(one))


@cache
def _chinese() -> tuple[list[str], list[float]]:
    lines = (Path(jieba.__file__).parent / "dict.txt").read_text("utf-8").splitlines()
    fields = re.compile("|".join(field.zh for field in FIELDS))
    entries = (line.split() for line in lines if not fields.search(line))
    counted = sorted(((int(count), word) for word, count, _ in entries), reverse=True)[:_WORDS]
    # The square root, or a hundred words would be most of it.
    return [word for _, word in counted], list(accumulate(count**0.5 for count, _ in counted))
