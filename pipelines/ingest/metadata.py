"""The types of metadata fields, fixed by the first document that has the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipelines.core.manifest import WRITTEN, Manifest
from pipelines.core.types import Metadata, Scalar


def known_types(directory: Path) -> Mapping[str, str]:
    """Those that the index in this directory has fixed; none where there is no index."""
    manifest = Manifest.find(directory, WRITTEN)
    return manifest.metadata_types if manifest else {}


def type_name(value: Scalar) -> str:
    """`bool`, `number` or `str`. Whole and broken numbers are one type."""
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "str"


def extend(types: Mapping[str, str], documents: Iterable[Metadata]) -> dict[str, str]:
    """`types` plus the fields that documents bring, in their order."""
    extended = dict(types)
    for metadata in documents:
        for field, value in metadata.items():
            extended.setdefault(field, type_name(value))
    return extended


def conflict(metadata: Metadata, types: Mapping[str, str]) -> str:
    """Why these values do not fit the index's types, or an empty string."""
    wrong = [
        f"{field} is a {type_name(value)} here ({value!r}) but a {types[field]} in the index"
        for field, value in metadata.items()
        if type_name(value) != types[field]
    ]
    return "; ".join(wrong)
