"""Turns -> tokens and labels by a processor's own chat template, with loss on the assistant's words only.

The template is rendered for growing parts of the conversation, each of which must begin the next: what the
assistant's turn adds behind the generation prompt is what the model is to write. So training sees the very
tokens that serving sends. Knows nothing of pictures' pixels, files or boxes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray

from pipelines.core.errors import BadPart, UsageError
from pipelines.core.prompts import IMAGE_TOKEN, Turn, messages

IGNORED = -100  # what torch's cross entropy leaves out

_PROBE = (
    Turn("user", f"{IMAGE_TOKEN}\nWhat is this?"),
    Turn("assistant", "Two words"),
    Turn("user", "And then?"),
    Turn("assistant", "More words."),
)


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """`input_ids` and `labels`, int64 (L,), IGNORED where there is no loss.

    They are of the first `turns` of the turns given, and of the first `pictures` of their pictures.
    """

    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    turns: int
    pictures: int


@dataclass(frozen=True, slots=True)
class _Rendered:
    """The text up to each end of the assistant's turns, `spans` of it that are to be learnt."""

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTokens:
    """Tokenises conversations for `processor` (with `tokenizer` and a chat template), a picture as
    `tokens_per_image` tokens.

    Raises UsageError for a processor that it cannot serve: without a template or offsets, or whose template
    does not grow with the conversation, drops pictures, or ends its generation prompt inside a token.
    """

    def __init__(self, processor: Any, tokens_per_image: int) -> None:
        self._processor = processor
        self._tokenizer = processor.tokenizer
        self._tokens_per_image = tokens_per_image
        if not getattr(processor, "chat_template", None):
            raise UsageError("the model has no chat template; add its chat_template.jinja")
        if not self._tokenizer.is_fast:
            raise UsageError("the model has no tokenizer.json; only fast tokenizers tell where a token lies")
        if self._tokenizer.eos_token is None:
            raise UsageError("the model's tokenizer names no eos_token: no answer would learn to end")
        self._image_id = int(self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        special = {str(token) for token in self._tokenizer.all_special_tokens}
        special |= {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        longest_first = sorted(special - {IMAGE_TOKEN}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)))
        try:
            self._check_template()
        except BadPart as exc:
            raise UsageError(f"the model's chat template cannot be trained with: {exc}") from exc

    def __call__(self, turns: Sequence[Turn], max_tokens: int | None = None) -> Tokens:
        """The conversation's tokens, whole or without its last pairs of turns, of which the first remains.

        Raises BadPart when the first pair is longer than `max_tokens`, or a text holds a control token.
        """
        for turn in turns:
            if found := self._special.search(turn.text):
                raise BadPart(
                    f"the text holds {found.group()!r}, which the tokenizer reads as a control token"
                )
        return self._tokens(self._rendered(turns), turns, max_tokens)

    def _tokens(self, rendered: _Rendered, turns: Sequence[Turn], max_tokens: int | None) -> Tokens:
        ids, starts, ends = self._encode(rendered.text)
        is_picture = ids == self._image_id
        widths = np.where(is_picture, self._tokens_per_image, 1)
        lengths = np.cumsum(widths)
        stops = [_tokens_to(ends, stop) for _, stop in rendered.spans]
        fitting = [n for n, stop in enumerate(stops) if max_tokens is None or lengths[stop - 1] <= max_tokens]
        if not fitting:
            what = "the first question and answer have" if len(stops) > 1 else "has"
            raise BadPart(f"{what} {lengths[stops[0] - 1]:,} tokens > {max_tokens:,}")
        last = fitting[-1]
        keep = slice(stops[last])
        labels = np.full(len(ids), IGNORED, np.int64)
        for start, stop in rendered.spans[: last + 1]:
            learnt = (ends > start) & (starts < stop)
            labels[learnt] = ids[learnt]
        kept_turns = _turns_to_answer(turns, last)
        pictures = sum(turn.text.count(IMAGE_TOKEN) for turn in turns[:kept_turns])
        if int(is_picture[keep].sum()) != pictures:
            raise BadPart(f"{int(is_picture[keep].sum())} image tokens for {pictures} pictures")
        repeated = widths[keep]
        return Tokens(
            np.repeat(ids[keep], repeated),
            np.repeat(labels[keep], repeated),
            kept_turns,
            pictures,
        )

    def _rendered(self, turns: Sequence[Turn]) -> _Rendered:
        text, done = "", ""
        spans = []
        for number, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            prompt = self._render(turns[:number], prompt=True)
            full = self._render(turns[: number + 1], prompt=False)
            if not (prompt.startswith(done) and full.startswith(prompt)):
                raise BadPart(
                    f"with the generation prompt, turn {number + 1} does not continue the turns before it"
                )
            said, words = full[len(prompt) :], turn.text.strip()
            end = said.find(words) + len(words)
            if end < len(words):
                raise BadPart(f"the text of turn {number + 1} is not in what it renders")
            text += prompt[len(done) :]
            start = len(text)
            # Without an end token in its place, as in LLaVA-1.5's template, the model would never stop.
            if closing := self._special.search(said, end):
                text, rest = text + said[: closing.end()], said[closing.end() :]
            else:
                text, rest = text + said[:end] + self._tokenizer.eos_token, said[end:]
            spans.append((start, len(text)))
            text, done = text + rest, full
        return _Rendered(text, tuple(spans))

    def _render(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        try:
            text = self._processor.apply_chat_template(
                messages(turns), add_generation_prompt=prompt, tokenize=False
            )
        except TemplateError as exc:
            raise BadPart(f"the chat template refuses it: {exc}") from exc
        return str(text)

    def _encode(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Token ids, and the characters at which each begins and ends (0, 0: it stands for none)."""
        # As processors do: a template that writes the first token itself needs no second one.
        bos = self._tokenizer.bos_token
        has_bos = bos is not None and text.startswith(bos)
        encoded = self._tokenizer(
            text, add_special_tokens=not has_bos, return_offsets_mapping=True, verbose=False
        )
        offsets = np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)
        return np.array(encoded["input_ids"], np.int64), offsets[:, 0], offsets[:, 1]

    def _check_template(self) -> None:
        rendered = self._rendered(_PROBE)
        ids, _, _ = self._encode(rendered.text)
        prompt = self._render(_PROBE[:1], prompt=True)
        asked, _, ends = self._encode(prompt)
        sent = _tokens_to(ends, len(prompt))
        if not np.array_equal(ids[:sent], asked[:sent]):
            raise BadPart(
                "its generation prompt ends inside a token of the answer; let it end before the space"
            )
        tokens = self._tokens(rendered, _PROBE, None)
        answers = [turn.text for turn in _PROBE if turn.role == "assistant"]
        learnt = tokens.input_ids[tokens.labels != IGNORED]
        decoded = self._tokenizer.decode(learnt, skip_special_tokens=True)
        if "".join(decoded.split()) != "".join("".join(answers).split()):
            raise BadPart(f"its answers {answers} come back from their tokens as {decoded!r}")


def _tokens_to(ends: NDArray[np.int64], stop: int) -> int:
    """How many tokens the text has up to character `stop`; not those that a tokenizer adds behind it."""
    return int(np.flatnonzero((ends > 0) & (ends <= stop))[-1]) + 1


def _turns_to_answer(turns: Sequence[Turn], answer: int) -> int:
    """How many turns there are up to the assistant's turn number `answer` (from 0)."""
    answers = [number for number, turn in enumerate(turns) if turn.role == "assistant"]
    return answers[answer] + 1
