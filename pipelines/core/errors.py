"""Every error that mmrag raises on purpose. Vendors' exceptions are translated into these once.

A message says what the caller can do about it. `exit_status` is the command's exit status when
the error ends it: 2 where the user asked for something wrong, 1 where the job failed.
"""

from __future__ import annotations

from collections.abc import Mapping


class MmragError(Exception):
    """Root of the tree."""

    exit_status = 1


class UsageError(MmragError, ValueError):
    """The request is wrong: a bad setting, source, filter or query."""

    exit_status = 2


class FilterError(UsageError):
    """A filter expression does not parse, or names a field that the index does not have."""


class SourceError(UsageError):
    """A source cannot be read at all: it is missing, or of no known form."""


class SpaceMismatch(UsageError):
    """The index was written in another vector space than the configured encoder's."""


class BadPart(MmragError):
    """One item of the corpus is unusable. A fact about data: it is recorded, not fatal."""


class NotAllowed(BadPart):
    """A file outside of what the settings let an ingest read."""


class BadImage(BadPart):
    """Bytes that are not a picture, are damaged, or are larger than the decoder's bounds."""


class BadReading(BadPart):
    """A picture in which the OCR failed."""


class BadCaption(BadPart):
    """A picture that the captioner says nothing of."""


class BadText(BadPart):
    """Text that cannot be decoded or is larger than the bounds."""


class BadExport(MmragError):
    """An export cannot be written or read back: it is damaged, cut short, or not what it says."""


class StoreError(MmragError):
    """A store refused an operation: wrong dimension, NaN, unknown index type, rejected rows."""


class PartsRefused(StoreError):
    """A store wrote all parts but some that it will never take. `reasons` tells why, by a part's key."""

    def __init__(self, message: str, reasons: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.reasons = dict(reasons or {})


class OtherIndex(StoreError, UsageError):
    """A collection on a server belongs to another index than the one that is opened."""


class StoreUnavailable(StoreError):
    """A store does not answer. Safe to retry."""


class OutOfMemory(MmragError):
    """A batch does not fit into the memory of the device that its model runs on."""


class GeneratorUnavailable(MmragError):
    """The model that writes answers does not answer. Safe to retry."""


class ModelUnavailable(MmragError):
    """A model that is asked over HTTP, a judge or a captioner, does not answer. Safe to retry."""


class NoReply(ModelUnavailable):
    """The model's server is there, but this request got nothing of use: too late, an error, no completion."""


class RequestRefused(UsageError):
    """The model's server does not take this request, for what it holds: another may pass."""


class IndexLocked(MmragError):
    """Another process is writing this index."""


class StoreLocked(IndexLocked, StoreUnavailable):
    """Another process has a store's own lock, which it gives back once it has written. Safe to retry."""


class MissingDependency(UsageError):
    """An optional package is not installed; the message names the extra that brings it, by `install_line`."""


def install_line(extra: str) -> str:
    """What brings an extra. From a clone: no package index has mmrag, and what one offers by that name is
    somebody else's."""
    lock = "gpu" if extra == "gpu" else "cpu"
    return f"pip install -c requirements/constraints-{lock}.txt '.[{extra}]' in a clone of the repository"
