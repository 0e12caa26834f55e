"""What listing hands to parsing, what parsing hands back, and the settings of both. Reads no file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipelines.core.addresses import refuse_secret
from pipelines.core.types import Document

RULES = "sources/2"
"""The version of the readers' rules, for the parts fingerprint: another one re-ingests the text."""

Form = Literal["picture", "text", "row", "html", "pdf"]


class SourceConfig(BaseModel):
    """What may be read, and how much of it.

    `allowed_roots` are folders that links and manifests may point into beside their own folder;
    `allowed_addresses` are object-store prefixes ("s3://bucket/") that may be read at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tenant: str = ""
    allowed_roots: tuple[str, ...] = ()
    allowed_addresses: tuple[str, ...] = ()
    pictures_beside_html: bool = False
    max_file_bytes: int = Field(64 * 1024**2, gt=0)
    max_text_bytes: int = Field(8 * 1024**2, gt=0)
    max_row_bytes: int = Field(1024**2, gt=0)

    @property
    def largest_bytes(self) -> int:
        """A file that has more is refused, whatever its kind."""
        return max(self.max_file_bytes, self.max_text_bytes)

    @field_validator("allowed_roots")
    @classmethod
    def _each_is_a_folder(cls, folders: tuple[str, ...]) -> tuple[str, ...]:
        for folder in folders:
            if "\0" in folder:
                raise ValueError(f"{folder!r} holds a character that no path has")
            try:
                Path(folder).expanduser()
            except RuntimeError as exc:
                raise ValueError(f"{folder!r} names the home of a user who is not known here") from exc
        return folders

    @field_validator("allowed_addresses")
    @classmethod
    def _each_is_a_prefix(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            refuse_secret(prefix, ValueError)
            if "://" not in prefix:
                raise ValueError(
                    f"{prefix!r} is no address such as s3://bucket/ (allowed_roots is for folders)"
                )
        # "s3://bucket" must not open "s3://bucket-of-another".
        return tuple(prefix if prefix.endswith("/") else prefix + "/" for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a source, found but not yet read.

    `scope` is the source as it was named on the command line, made absolute: what is missing from
    it in a later run was removed there. `address` is the file that holds the document (its page,
    picture, text or manifest). `root` is the folder that its files must stay in. `payload` is what
    parsing needs beside the files. `inputs` are the files, known without parsing, whose bytes the
    document depends on; `stamps` what their listing told of each, or nothing of any.
    """

    form: Form
    document_id: str
    address: str
    scope: str
    root: str
    payload: bytes = b""
    inputs: tuple[str, ...] = ()
    tenant: str = ""
    stamps: tuple[str, ...] = ()


UNAVAILABLE: Final = "unavailable"
"""The stage of what could not be read for a reason that passes. Its document stays unfinished: the next run
takes it up, as nothing of its files tells that they can be read again."""

AWAY: Final = "away"
"""The stage of a file whose whole folder is missing or empty, or that a store lets nobody read. A document
that the index has with more pictures stays unfinished, as if it were UNAVAILABLE: what it names is not
mounted, or the login is not what it was. Another is refused, as that may be for good."""

MAY_RETURN: Final = frozenset({UNAVAILABLE, AWAY})

FORBIDDEN: Final = "forbidden"
"""The stage of a file that the settings do not let an ingest read. What the index has of such files goes,
however many there are: that was asked for."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A document, or a part of one, that cannot be used, and why: a line for the dead letters.

    `scope` is the SOURCE where listing refused it. `picture` is the address of a picture that may return: it
    stands among the document's all the same, so that the others keep their ordinals.
    """

    document_id: str
    source: str
    stage: str
    reason: str
    scope: str = ""
    picture: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document that can be used, and the parts of it that cannot.

    `wanted` are the addresses of files that could not be used and that listing does not know:
    the document depends on them too, as they may be put right.
    """

    document: Document
    rejected: tuple[Rejected, ...] = ()
    wanted: tuple[str, ...] = ()

    def missing(self) -> dict[str, Rejected]:
        """Of the document's pictures those that may return, by address."""
        return {one.picture: one for one in self.rejected if one.picture}

    def pictures(self) -> Iterator[tuple[int, str]]:
        """The ordinals and addresses of the others."""
        missing = self.missing()
        return ((n, address) for n, address in enumerate(self.document.images) if address not in missing)
