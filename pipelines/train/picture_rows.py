"""The rows of a JSONL file, each a picture with its texts. Knows not what is trained on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.core import images
from pipelines.core.errors import UsageError
from pipelines.core.lines import explained, lines


class PictureRow(BaseModel):
    """What every such row has. `image` is relative to the file and stays in its folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str = Field(min_length=1)
    texts: tuple[str, ...] = Field(min_length=1)

    @property
    def words(self) -> tuple[str, ...]:
        """All its texts: none may be empty."""
        return self.texts


Row = TypeVar("Row", bound=PictureRow)


def picture_rows(
    file: Path, form: type[Row], max_picture_bytes: int = images.MAX_BYTES
) -> Iterator[tuple[str, Row]]:
    """Each row with its file and line. Raises UsageError, which names them, for a row that is wrong or a
    picture that is not there."""
    folder = Path(os.path.realpath(file.parent))
    for where, line in lines(file, bounded=False):
        try:
            row = form.model_validate_json(line)
        except ValidationError as exc:
            raise UsageError(f"{where}: {explained(exc)}") from exc
        _check_picture(row.image, folder, where, max_picture_bytes)
        if any(not text.strip() for text in row.words):
            raise UsageError(f"{where}: an empty text")
        yield where, row


def _check_picture(name: str, folder: Path, where: str, max_bytes: int) -> None:
    shown = f"{where}: image {name[:100]!r}"
    try:
        path = Path(os.path.realpath(folder / name))
        there = path.is_file()
        size = path.stat().st_size if there else 0
    except (OSError, ValueError) as exc:  # a name that no file can have
        raise UsageError(f"{shown}: {exc}") from exc
    if not path.is_relative_to(folder):
        raise UsageError(f"{shown} is outside the file's folder")
    if not there:
        raise UsageError(f"{shown} does not exist")
    if size > max_bytes:
        raise UsageError(f"{shown} is larger than {max_bytes >> 20} MiB")
