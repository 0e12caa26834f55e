"""Conversations to train on, row by row from a file: a Sample, or a BadRow with its line and what is wrong.

A row is LLaVA's `{"id", "image": "a.png" or [...], "conversations": [{"from": "human"|"gpt", "value"}]}` or
OpenAI's `{"messages": [{"role", "content"}]}`, in a JSON array or one a line (JSONL). Each `<image>` in what
the user says is the next picture. Pictures are files inside one folder, or data URIs of OpenAI's
`image_url` parts; nothing is fetched. Knows nothing of models, tokens or boxes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import BadPart, UsageError
from pipelines.core.picture_files import MissingPictures, clean, find_pictures
from pipelines.core.prompts import IMAGE_TOKEN, Role, Turn
from pipelines.train.row_index import RowSpan, index_rows

MAX_TEXT_CHARS = 1_000_000
MAX_TURNS = 200
MAX_PICTURES = 64

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation with an assistant's turn after each of the user's, behind at most one of the system's.

    `images` are files inside the image root, or encoded pictures, one for each `<image>` of the turns.
    """

    id: str
    images: tuple[Path | bytes, ...]
    turns: tuple[Turn, ...]
    line: int


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be trained on. `missing` names the picture files that are not there."""

    line: int
    id: str
    reason: str
    missing: tuple[str, ...] = ()


class ConversationFile:
    """The rows of a file by their ordinal, bad rows included. Holds 32 bytes a row, and can be pickled.

    Raises UsageError when the file cannot be read, or holds no row. It must not change while it is in use.
    """

    def __init__(self, path: Path, image_root: Path | None = None) -> None:
        self.path = path.absolute()  # a worker's folder is another
        self._root = os.path.realpath(image_root or path.parent)
        if not Path(self._root).is_dir():
            raise UsageError(f"{image_root}: no such folder; image_root is where the pictures are")
        try:
            self._spans = index_rows(path)
        except OSError as exc:
            raise UsageError(f"{path}: cannot be read ({exc.strerror})") from exc
        if not len(self._spans):
            raise UsageError(f"{path}: holds no rows; wanted LLaVA conversations or OpenAI messages")

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, ordinals: Sequence[int]) -> list[Sample | BadRow]:
        """These rows, in the order asked for."""
        with self.path.open("rb") as stream:
            rows = []
            for ordinal in ordinals:
                span = RowSpan(*self._spans[ordinal].tolist())
                stream.seek(span.offset)
                rows.append(_row(span, ordinal, stream.read(max(0, span.length)), self._root))
            return rows


def read_conversations(path: Path, image_root: Path | None = None) -> Iterator[Sample | BadRow]:
    """Every row of the file, in order. Raises UsageError as ConversationFile does."""
    rows = ConversationFile(path, image_root)
    for ordinal in range(len(rows)):
        yield from rows.read([ordinal])


def data_hash(path: Path) -> str:
    """SHA-256 of the file, in hexadecimal. Raises UsageError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read ({exc.strerror})") from exc


def _row(span: RowSpan, ordinal: int, raw: bytes, root: str) -> Sample | BadRow:
    known_as = f"row {ordinal + 1}"  # an array may be one long line
    try:
        if span.length < 0:
            raise BadPart("the row is longer than the limit; keep large pictures in files")
        row = _object(raw)
        known_as = _id(row) or known_as
        if span.repeats:
            raise BadPart(f"repeats line {span.repeats}")
        turns, pictures = _messages(row) if "messages" in row else _llava(row)
        _check_turns(turns)
        _check_marks(turns, len(pictures))
        return Sample(known_as, find_pictures(pictures, root), turns, span.line)
    except MissingPictures as exc:
        return BadRow(span.line, known_as, str(exc), exc.names)
    except BadPart as exc:
        return BadRow(span.line, known_as, str(exc))


def _object(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise BadPart(f"is not UTF-8: byte {exc.start}") from exc
    except (ValueError, RecursionError) as exc:
        raise BadPart(f"invalid JSON: {exc}") from exc
    if not isinstance(row, dict):
        raise BadPart(f"the row is {_kind(row)}; wanted an object")
    return row


def _id(row: dict[str, Any]) -> str:
    value = row.get("id")
    if value is None or value == "":
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > 512:
        raise BadPart("id: wanted a short text or a number")
    return clean(str(value), "id")


def _llava(row: dict[str, Any]) -> tuple[tuple[Turn, ...], list[str]]:
    said = row.get("conversations")
    if not isinstance(said, list):
        raise BadPart("has neither 'conversations' nor 'messages', a list")
    turns = tuple(_turn(number, turn, "from", "value") for number, turn in enumerate(said, start=1))
    return turns, _named(row)


def _messages(row: dict[str, Any]) -> tuple[tuple[Turn, ...], list[str]]:
    said = row["messages"]
    if not isinstance(said, list):
        raise BadPart("messages: wanted a list")
    in_parts: list[str] = []
    flat: list[object] = []
    for number, message in enumerate(said, start=1):
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            flat.append(message | {"content": _flattened(number, message["content"], in_parts)})
        else:
            flat.append(message)
    turns = tuple(_turn(number, turn, "role", "content") for number, turn in enumerate(flat, start=1))
    named = _named(row)
    if named and in_parts:
        raise BadPart("has pictures in its messages and in 'image'; name them in one place")
    return turns, named or in_parts


def _flattened(number: int, parts: list[Any], pictures: list[str]) -> str:
    """Content parts as one text with marks; their pictures are appended to `pictures`."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":  # a mark for the next of the row's pictures
            texts.append(IMAGE_TOKEN)
        elif kind == "image_url":
            inner = part.get("image_url")
            address = inner.get("url") if isinstance(inner, dict) else inner
            if not isinstance(address, str):
                raise BadPart(f"turn {number}: image_url has no url")
            pictures.append(address)
            texts.append(IMAGE_TOKEN)
        else:
            raise BadPart(f"turn {number}: unknown part {kind!r}; wanted text or image_url")
    return "\n".join(texts)


def _turn(number: int, turn: object, who: str, what: str) -> Turn:
    if not isinstance(turn, dict):
        raise BadPart(f"turn {number} is {_kind(turn)}; wanted an object")
    name, text = turn.get(who), turn.get(what)
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadPart(f"turn {number}: unknown role {str(name)[:40]!r}; wanted human, gpt or system")
    if not isinstance(text, str):
        raise BadPart(f"turn {number}: {what} is {_kind(text)}; wanted a text")
    if not text.strip():
        raise BadPart(f"turn {number} is empty")
    return Turn(role, clean(text, f"turn {number}"))


def _check_turns(turns: Sequence[Turn]) -> None:
    if not turns:
        raise BadPart("the conversation is empty")
    if len(turns) > MAX_TURNS:
        raise BadPart(f"has {len(turns):,} turns; at most {MAX_TURNS}")
    if sum(len(turn.text) for turn in turns) > MAX_TEXT_CHARS:
        raise BadPart(f"has more than {MAX_TEXT_CHARS:,} characters of text")
    if not any(turn.role == "assistant" for turn in turns):
        raise BadPart("has no turn of the assistant's to learn from")
    first = 1 if turns[0].role == "system" else 0
    for number, turn in enumerate(turns[first:], start=first + 1):
        expected = "assistant" if (number - first) % 2 == 0 else "user"
        if turn.role != expected:
            raise BadPart(f"turn {number} is the {turn.role}'s; turns alternate, the user's first")
    if turns[-1].role != "assistant":
        raise BadPart("ends with the user's turn; add the answer, or leave the turn out")


def _check_marks(turns: Sequence[Turn], pictures: int) -> None:
    for number, turn in enumerate(turns, start=1):
        if turn.role != "user" and IMAGE_TOKEN in turn.text:
            raise BadPart(f"turn {number}: {IMAGE_TOKEN} in a turn that is not the user's")
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if marks != pictures:
        raise BadPart(f"has {marks} {IMAGE_TOKEN} for {pictures} pictures")
    if pictures > MAX_PICTURES:
        raise BadPart(f"has {pictures} pictures; at most {MAX_PICTURES}")


def _named(row: dict[str, Any]) -> list[str]:
    """The pictures that the row itself names, as LLaVA's `image` or as `images`."""
    if row.get("image") is not None and row.get("images") is not None:
        raise BadPart("has 'image' and 'images'; name the pictures in one place")
    value = row.get("image") if row.get("image") is not None else row.get("images")
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BadPart("image: wanted a file name, or a list of them")
    return names


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
