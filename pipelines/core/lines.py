"""The lines of a file that people wrote, each with its place for a message. Knows not what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from pipelines.core.complaints import complaint
from pipelines.core.errors import UsageError

MAX_FILE_BYTES = 512 * 2**20
MAX_LINE_BYTES = 2**20


def lines(file: Path, *, bounded: bool = True) -> Iterator[tuple[str, str]]:
    """The lines that are not blank, each with its place. `bounded` is for a file that is held in memory.
    Raises UsageError for what cannot be read."""
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    try:
        if bounded and file.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(f"{file}: has more than the {MAX_FILE_BYTES:,} bytes allowed")
        with file.open("rb") as stream:
            for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
                where = f"{file}:{number}"
                if len(line) > MAX_LINE_BYTES:
                    raise UsageError(f"{where}: is longer than the {MAX_LINE_BYTES:,} bytes allowed")
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield where, text
    except UnicodeDecodeError as exc:
        raise UsageError(f"{where}: is not UTF-8 (byte {exc.start})") from exc
    except OSError as exc:
        raise UsageError(f"{file}: {exc.strerror}") from exc


def explained(exc: ValueError) -> str:
    """One line: the field and what is wrong with it."""
    return complaint(exc) if isinstance(exc, ValidationError) else f"no JSON ({exc})"
