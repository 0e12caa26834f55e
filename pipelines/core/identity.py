"""Which index a directory is: a name that it keeps and its collections on servers carry. Knows no store.

    DIR/identity    the directory in which the index was made, and a random number

A collection without a name, an earlier version's or an embedded server's, is taken as it is.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

from pipelines.core.errors import OtherIndex
from pipelines.core.files import replace_file

FILE: Final = "identity"


def identity(directory: Path) -> str:
    """The name of the index here; "" before the first writer of this version."""
    try:
        return (directory / FILE).read_text("utf-8")
    except FileNotFoundError:
        return ""


def make_identity(directory: Path) -> None:
    """Name the index here, once and for all. Only for the holder of the write lock."""
    if not identity(directory):
        name = f"{directory} ({uuid.uuid4().hex})"
        replace_file(directory / FILE, name.encode("utf-8", "replace"), durable=True)


def require_own(what: str, owner: str, ours: str, setting: str) -> None:
    """Raise OtherIndex where `what`, a collection that carries the name `owner`, is not our index's.

    `setting` decides what our collections are called.
    """
    if owner and owner != ours:
        raise OtherIndex(
            f"{what} belongs to the index {owner}, not to {ours or 'this one'}: set another {setting}, or "
            "--index to the directory that it belongs to; if that index is no more, drop it on the server"
        )
