"""The words that a generator is asked with, one place for training and serving. Knows no model or template.

Raise PROMPT_VERSION with any change of these words: an adapter is bound to the words it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

PROMPT_VERSION: Final = "1"
IMAGE_TOKEN: Final = "<image>"
NO_ANSWER: Final = {"en": "The evidence does not say.", "zh": "资料中没有说明。"}

NO_QUESTION: Final = "Describe the picture."
"""What is asked of a picture that comes without words."""

Role = Literal["system", "user", "assistant"]

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_NUMBERED = re.compile(r"^\[([1-9][0-9]{0,2})\] .*$", re.MULTILINE)
_CITED = re.compile(r"\[([1-9][0-9]{0,2})\]\s*$")
_ASK = {
    "en": "Answer from the evidence and cite it like [1]. If it does not hold the answer, say: {no_answer}",
    "zh": "根据资料回答，并像 [1] 这样注明出处。资料中没有答案时回答：{no_answer}",
}
_PICTURE = {"en": "picture {number}", "zh": "图 {number}"}
_QUESTION = {"en": "Question: ", "zh": "问题："}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side says. Each `<image>` in the text stands for the conversation's next picture."""

    role: Role
    text: str


def messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Chat messages as processors' templates and vLLM read them: a picture is a part of its own.

    Space beside a mark goes: templates put their own around a picture. Templates of some models (LLaVA-1.5)
    move a message's pictures before its text, in their order.
    """
    return [{"role": turn.role, "content": _parts(turn.text)} for turn in turns]


def evidence_prompt(
    question: str,
    evidence: Sequence[str | None],
    pictures: Collection[int] = (),
    *,
    query_picture: bool = False,
) -> Turn:
    """The question with its evidence, numbered from 1 in the order given, for an answer that cites `[n]`.

    `pictures` names the numbers whose picture is shown, the lowest first; with `query_picture` the question's
    own comes last, next to the question. Retrieved text cannot add marks, nor lines of its own.
    """
    words = language(question)
    lines = [_ASK[words].format(no_answer=NO_ANSWER[words])]
    shown = 0
    for number, text in enumerate(evidence, start=1):
        line = f"[{number}]"
        if number in pictures:
            shown += 1
            # Said in words too, for templates that move the pictures to the front.
            line += f" {_PICTURE[words].format(number=shown)} {IMAGE_TOKEN}"
        lines.append(f"{line} {_plain(text or '')}".rstrip())
    asked = _QUESTION[words] + _plain(question)
    if query_picture:
        asked = f"{_PICTURE[words].format(number=shown + 1)} {IMAGE_TOKEN}\n{asked}"
    return Turn("user", "\n".join([*lines, asked]))


def evidence_pictures(text: str) -> dict[int, int]:
    """Of a prompt's evidence, by number: which of the text's pictures (from 0) it shows."""
    return {
        int(line[1]): text.count(IMAGE_TOKEN, 0, line.start())
        for line in _NUMBERED.finditer(text)
        if IMAGE_TOKEN in line[0]
    }


def cited_before(text: str, start: int) -> int | None:
    """The number of the citation `[n]` that ends where text[start:] begins, but for space."""
    found = _CITED.search(text, 0, start)
    return int(found[1]) if found else None


def language(text: str) -> Literal["en", "zh"]:
    """The language of this project's words for a text: Chinese where it holds a Chinese character."""
    return "zh" if _HAN.search(text) else "en"


def _parts(text: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(IMAGE_TOKEN)):
        if number:
            parts.append({"type": "image"})
        if piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


def _plain(text: str) -> str:
    return " ".join(text.replace(IMAGE_TOKEN, " ").split())  # a space: nothing may close up to a new mark
