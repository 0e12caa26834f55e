"""Captions: what a model says of a document's pictures becomes passages of it. Knows no Ray and no stores.

The model is behind any API of OpenAI's form that takes pictures, such as vLLM's own server. What it said is
kept by the picture's content, so a picture is asked about once. Its words are data, as the corpus is: one
line of bounded length.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Final

from pipelines.core import images
from pipelines.core.chat import Chat, picture, words
from pipelines.core.errors import (
    BadCaption,
    BadPart,
    ModelUnavailable,
    NoReply,
    RequestRefused,
    UsageError,
)
from pipelines.core.files import replace_file
from pipelines.core.patience import patiently
from pipelines.core.plain import tidy
from pipelines.core.space import digest
from pipelines.core.types import Document, Passage
from pipelines.ingest.config import CaptionConfig
from pipelines.ingest.sources import UNAVAILABLE, Parsed, Rejected, read_bytes, stage_of
from pipelines.ingest.sources.text import shorten
from pipelines.ingest.tally import Count, uncounted

_LOG = logging.getLogger(__name__)

RULES: Final = "captions/1"
"""The version of these rules, for the fingerprints: raise it with any change of what is asked or kept."""

_SERVE_OWNER: Final = "mmrag"  # as `mmrag serve` lists its models


def require(config: CaptionConfig | None) -> None:
    """Raise ModelUnavailable where no server answers at all, and UsageError where it takes no such key or is
    `mmrag serve`."""
    if config is None:
        return
    with Chat(config) as chat:
        if _SERVE_OWNER in chat.owners():
            raise UsageError(
                f"ingest.captions.url: {config.url} is mmrag serve, which answers from its index; name a "
                "server of the model alone, such as vLLM's own"
            )


def fingerprint(config: CaptionConfig | None) -> dict[str, Any]:
    """Of what decides the passages, for the parts fingerprint: nothing while nothing is asked."""
    return {} if config is None else {"captions": [_captioner(config), config.pictures]}


def _captioner(config: CaptionConfig) -> str:
    """What decides the caption of a picture. Where the model is served does not."""
    asked = config.model_dump(mode="json", include={"model", "prompt", "max_tokens", "max_chars"})
    if config.extra_body:
        asked["extra_body"] = dict(config.extra_body)
    return digest(asked | {"rules": RULES})


class CaptionPictures:
    """Adds to documents a caption for each picture that is to have one, and to what was refused the pictures
    that got none.

    `at_once` pictures of a batch are asked about at a time. Captions are kept under `root`.
    """

    def __init__(
        self, config: CaptionConfig, root: Path, max_bytes: int, at_once: int = 1, count: Count = uncounted
    ) -> None:
        self._config, self._root, self._max_bytes = config, root, max_bytes
        self._at_once, self._count = at_once, count

    def __call__(self, batch: Sequence[Parsed]) -> list[Parsed]:
        """Raises ModelUnavailable where the captioner stops answering for `patience_s`, and UsageError."""
        addresses = list(dict.fromkeys(a for parsed in batch for _, a in self._wanted(parsed)))
        if not addresses:
            return list(batch)
        with Chat(self._config) as chat, ThreadPoolExecutor(self._at_once) as pool:
            captioner = Captioner(self._config, self._root, self._max_bytes, chat, self._count)
            said = dict(zip(addresses, pool.map(captioner, addresses), strict=True))
        return [self._captioned(parsed, said) for parsed in batch]

    def _wanted(self, parsed: Parsed) -> Iterator[tuple[int, str]]:
        for ordinal, address in parsed.pictures():
            if self._config.pictures == "all" or not _own_caption(parsed.document, ordinal):
                yield ordinal, address

    def _captioned(self, parsed: Parsed, said: dict[str, str | BadPart]) -> Parsed:
        document = parsed.document
        captions = [_own_caption(document, ordinal) for ordinal in range(len(document.images))]
        passages: list[Passage] = []
        refused: list[Rejected] = []
        for ordinal, address in self._wanted(parsed):
            caption = said[address]
            if isinstance(caption, BadPart):
                stage = "caption" if isinstance(caption, BadCaption) else UNAVAILABLE
                refused.append(Rejected(document.id, address, stage, f"{address}: {caption}"))
            elif caption:
                passages.append(Passage(caption, (ordinal,), address))
                captions[ordinal] = captions[ordinal] or shorten(caption)
        return replace(
            parsed,
            document=replace(document, passages=(*document.passages, *passages), captions=tuple(captions)),
            rejected=(*parsed.rejected, *refused),
        )


class Captioner:
    """The caption of the picture at an address, or why there is none. Safe to call from several threads: they
    decode one picture at a time, as that takes memory, and ask about equal ones once."""

    def __init__(self, config: CaptionConfig, root: Path, max_bytes: int, chat: Chat, count: Count) -> None:
        self._config, self._root, self._max_bytes = config, root, max_bytes
        self._chat, self._count = chat, count
        self._captioner = _captioner(config)
        self._decoding, self._by_content = Lock(), dict[str, Lock]()

    def __call__(self, address: str) -> str | BadPart:
        """ "" where there is no usable picture, which the stage that loads it says once. A BadPart that is no
        BadCaption is of storage that does not answer."""
        try:
            return self._caption(address)
        except BadCaption as exc:
            return exc
        except BadPart as exc:
            return exc if stage_of(exc, "caption") == UNAVAILABLE else ""
        finally:
            self._count("caption")

    def _caption(self, address: str) -> str:
        with self._decoding:
            data = read_bytes(address, self._max_bytes)
        content = hashlib.sha256(data).hexdigest()
        with self._by_content.setdefault(content, Lock()):
            known = _load(self._root, content, self._captioner)
            if known is not None:
                return known
            with self._decoding:
                jpeg = images.preview(images.decode(data))
            del data  # each thread's would stay while the model thinks
            caption = patiently(lambda: self._asked(jpeg), self._config.patience_s, ModelUnavailable)
            _save(self._root, content, self._captioner, caption)
            return caption

    def _asked(self, jpeg: bytes) -> str:
        """Raises ModelUnavailable, UsageError, and BadCaption where this picture alone may be the reason."""
        try:
            reply = self._chat.reply("", [picture(jpeg), words(self._config.prompt)])
        except (NoReply, RequestRefused) as exc:
            raise BadCaption(str(exc)) from exc
        caption = shorten(tidy(reply), self._config.max_chars)
        if not caption:
            raise BadCaption(f"{self._config.who} at {self._config.url} says nothing")
        return caption


def _own_caption(document: Document, ordinal: int) -> str:
    return document.captions[ordinal] if document.captions else ""


def caption_path(root: Path, content: str) -> Path:
    """Where the caption of the picture with this SHA-256 is kept."""
    return root / content[:2] / f"{content}.json"


def _load(root: Path, content: str, captioner: str) -> str | None:
    """What this captioner said of the picture before; None where it was not asked, or where that is damaged,
    as a power cut may leave it."""
    path = caption_path(root, content)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return str(kept["caption"]) if kept["captioner"] == captioner else None
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as exc:
        _LOG.warning("%s is damaged (%s): the picture is asked about again", path, exc)
        return None


def _save(root: Path, content: str, captioner: str, caption: str) -> None:
    path = caption_path(root, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps({"captioner": captioner, "caption": caption}, ensure_ascii=False))
