"""What an index says of itself: `index.json`, and while one is being made `next.json` or `restoring.json`.

An index is rebuilt beside itself: each whole build is a generation with stores of its own, and which one is
read is decided by `index.json` alone, which is replaced at once. Knows no store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipelines.core.errors import UsageError
from pipelines.core.files import replace_file

WRITTEN: Final = "index.json"
NEXT: Final = "next.json"  # of the generation that a rebuild is filling
UNFINISHED: Final = "restoring.json"
_FIRST_FORMAT, _FORMAT = 1, 2  # a version that knows no generations must not take one for another


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was fixed when the index was made, and the metadata fields seen since.

    `replaces` is the generation before, while its stores are kept for readers that have them open.
    """

    space: Mapping[str, Any]
    text_space: Mapping[str, Any]
    metadata_types: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0
    replaces: int | None = None

    def save(self, directory: Path, name: str = WRITTEN) -> None:
        body = {
            "format": _FORMAT if self.generation else _FIRST_FORMAT,
            "space": dict(self.space),
            "text_space": dict(self.text_space),
            "metadata_types": dict(self.metadata_types),
        }
        if self.generation:
            body |= {"generation": self.generation, "replaces": self.replaces}
        replace_file(directory / name, json.dumps(body, indent=1, ensure_ascii=False) + "\n", durable=True)

    @classmethod
    def load(cls, directory: Path) -> Manifest:
        """Of the index that is read. Raises UsageError when there is none here, or one of another version."""
        if os.path.exists(directory / UNFINISHED):  # noqa: PTH110 (also where it may not be looked for)
            raise UsageError(f"an import into {directory} has not ended; wait, or run it again")
        found = cls.find(directory, WRITTEN)
        if found is None:
            raise UsageError(
                f"no index at {directory}; make one with: mmrag ingest SOURCE --index {directory}"
            )
        return found

    @classmethod
    def find(cls, directory: Path, name: str) -> Manifest | None:
        """The manifest of this name, or None. Raises UsageError for a damaged one or another version's."""
        path = directory / name
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["format"] not in (_FIRST_FORMAT, _FORMAT):
                raise UsageError(
                    f"{path} has format {body['format']}; this version reads {_FIRST_FORMAT} and {_FORMAT}: "
                    "ingest again"
                )
            later = (body["generation"], body["replaces"]) if body["format"] == _FORMAT else (0, None)
            return cls(body["space"], body["text_space"], body["metadata_types"], *later)
        except FileNotFoundError:
            return None
        except PermissionError as exc:
            raise UsageError(f"{path} may not be read by this user (permission denied)") from exc
        except (ValueError, KeyError, TypeError) as exc:
            if isinstance(exc, UsageError):
                raise
            raise UsageError(f"{path} is damaged ({exc}); restore it, or ingest into a new --index") from exc


def standing(directory: Path) -> tuple[int, int | None]:
    """Generation and `replaces` of the index that is here or half imported; (0, None) where there is none.

    Raises UsageError for a damaged one.
    """
    found = Manifest.find(directory, UNFINISHED) or Manifest.find(directory, WRITTEN)
    return (found.generation, found.replaces) if found else (0, None)


def named(base: str, generation: int) -> str:
    """What a collection, index or directory of a generation is called."""
    return f"{base}_g{generation}" if generation else base


def home_of(directory: Path, generation: int) -> Path:
    """Where the jobs keep what belongs to one generation alone."""
    return directory / "generations" / str(generation) if generation else directory
