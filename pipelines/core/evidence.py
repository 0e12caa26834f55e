"""Hits -> what a model is shown: numbered evidence, its pictures, and the question. Generates nothing.

A prompt must leave room for its answer. Pictures come first, for they are what text alone cannot tell; the
texts share what is left, each getting as much as the shortest can spare.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from PIL import Image

from pipelines.core import images
from pipelines.core.errors import UsageError
from pipelines.core.generator import GeneratorConfig, ModelProfile, Prompt
from pipelines.core.grounding import Frame
from pipelines.core.previews import Preview
from pipelines.core.prompts import IMAGE_TOKEN, NO_QUESTION, Turn, evidence_prompt
from pipelines.core.types import Hit

PictureOf = int | Literal["query"]
LoadPreview = Callable[[Hit], Preview | None]

_TEMPLATE_TOKENS = 32
"""What a chat template puts around the turns, at most."""
_PER_EVIDENCE = 8
_LEAST_TEXT = 8
_MOST_OF_CONTEXT = 0.5
"""What pictures may take: text tells which of them is meant."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The prompt, the hits it numbers from 1, and how each picture in it lies in the model's square."""

    prompt: Prompt
    hits: tuple[Hit, ...]
    frames: Mapping[PictureOf, Frame]


@dataclass(frozen=True, slots=True)
class _Picture:
    png: bytes
    frame: Frame


def show(
    question: str,
    history: Sequence[Turn],
    hits: Sequence[Hit],
    query_picture: bytes | None,
    load: LoadPreview,
    config: GeneratorConfig,
    profile: ModelProfile,
) -> Shown:
    """An empty question is one without words. What its user said just before belongs to it: as much of that
    as a question may still have.

    Raises BadImage for the question's picture, and UsageError for a question longer than the model reads.
    Hits without a picture that is shown and without text are left out, and what follows is numbered anew.
    """
    room = profile.context - min(config.max_tokens, profile.context // 2) - _TEMPLATE_TOKENS
    answered, said = _parted(history)
    question = _joined(said, question, room // 2, profile)
    room -= profile.count(evidence_prompt(question, []).text)
    most = min(config.most_pictures, int(room * _MOST_OF_CONTEXT) // profile.tokens_per_image)
    pictures = _pictures(hits, query_picture, load, most, config.picture_share, profile)
    room -= len(pictures) * profile.tokens_per_image
    turns = _recent(answered, room // 4, profile)
    room -= sum(profile.count(turn.text) for turn in turns)
    texts = _shared([profile.plain(hit.text) for hit in hits], min(room, config.evidence_tokens), profile)
    kept = [place for place, text in enumerate(texts) if text or place in pictures]
    shown: dict[PictureOf, _Picture] = {
        number: pictures[place] for number, place in enumerate(kept, start=1) if place in pictures
    }
    turn = evidence_prompt(
        question, [texts[place] for place in kept], _numbers(shown), query_picture="query" in pictures
    )
    if "query" in pictures:  # last, as in the prompt
        shown["query"] = pictures["query"]
    prompt = Prompt((*turns, turn), tuple(picture.png for picture in shown.values()))
    frames = {whose: picture.frame for whose, picture in shown.items()}
    return Shown(prompt, tuple(hits[place] for place in kept), frames)


def _pictures(
    hits: Sequence[Hit],
    query_picture: bytes | None,
    load: LoadPreview,
    most: int,
    share: float,
    profile: ModelProfile,
) -> dict[PictureOf, _Picture]:
    """The question's own, and by their place from 0 those of the first hits that have so large a share of the
    best one's score: at most so many."""
    pictures: dict[PictureOf, _Picture] = {}
    if query_picture is not None:
        if most < 1:
            raise UsageError(f"{profile.name} is not set up to see pictures: raise generator.max_pictures")
        upright = images.decode(query_picture)
        pictures["query"] = _fitted(upright, (upright.width, upright.height), profile)
    for place, hit in enumerate(hits):
        stands_out = hit.kind == "image" and hit.score >= share * hits[0].score
        if stands_out and len(pictures) < most and (preview := load(hit)):
            size = preview.original_width, preview.original_height
            pictures[place] = _fitted(images.decode(preview.data), size, profile)
    return pictures


def _numbers(shown: Mapping[PictureOf, _Picture]) -> list[int]:
    return [whose for whose in shown if isinstance(whose, int)]


def _fitted(picture: images.Picture, size: tuple[int, int], profile: ModelProfile) -> _Picture:
    """`size` is the original's, which boxes are told in."""
    out = io.BytesIO()
    if profile.side is None:
        picture.image.save(out, "PNG")
        return _Picture(out.getvalue(), Frame(*size, "squash", profile.frame.units))
    square = images.fit_square(picture, profile.side, profile.frame.fit)
    Image.fromarray(square).save(out, "PNG", compress_level=1)
    return _Picture(out.getvalue(), profile.frame.of(*size))


def _parted(history: Sequence[Turn]) -> tuple[Sequence[Turn], str]:
    """The turns that an answer ends, and the words of the user's since."""
    since = list(takewhile(lambda turn: turn.role == "user", reversed(history)))
    return history[: len(history) - len(since)], "\n".join(turn.text for turn in reversed(since))


def _joined(said: str, question: str, tokens: int, profile: ModelProfile) -> str:
    """The question, whole, after what its user had said: of that as many tokens as it leaves."""
    question, said = (profile.plain(words.replace(IMAGE_TOKEN, " ")).strip() for words in (question, said))
    asked = profile.count(evidence_prompt(question or NO_QUESTION, []).text)
    if asked > tokens:
        raise UsageError(f"the question has {asked:,} tokens; {profile.name} reads {tokens:,} at most")
    before = profile.cut(said, tokens - asked)
    return f"{before}\n{question}".strip() or NO_QUESTION


def _recent(history: Sequence[Turn], tokens: int, profile: ModelProfile) -> tuple[Turn, ...]:
    """The last pairs of question and answer that fit. Their pictures are not shown again."""
    kept: list[Turn] = []
    pairs = list(zip(history[::2], history[1::2], strict=False))
    for asked, said in reversed(pairs):
        if (asked.role, said.role) != ("user", "assistant"):
            break
        question, answer = (
            profile.plain(turn.text.replace(IMAGE_TOKEN, " ")).strip() for turn in (asked, said)
        )
        pair = [Turn("user", question or NO_QUESTION), Turn("assistant", answer)]
        tokens -= sum(profile.count(turn.text) for turn in pair)
        if tokens < 0:
            break
        kept[:0] = pair
    return tuple(kept)


def _shared(texts: Sequence[str], tokens: int, profile: ModelProfile) -> list[str]:
    """The texts, cut so that all together have at most so many tokens: the short ones stay whole, the long
    ones get equal shares of the rest."""
    plain = [" ".join(text.split()) for text in texts]
    needs = [profile.count(text) for text in plain]
    left = max(0, tokens - _PER_EVIDENCE * len(plain))
    shares = [0] * len(plain)
    by_need = sorted(range(len(plain)), key=needs.__getitem__)
    for done, place in enumerate(by_need):
        shares[place] = min(needs[place], left // (len(plain) - done))
        left -= shares[place]
    return [
        profile.cut(text, share) if share == need or share >= _LEAST_TEXT else ""
        for text, share, need in zip(plain, shares, needs, strict=True)
    ]
