"""The types of metadata fields, fixed by the first document that has the field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

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


def extend(
    types: Mapping[str, str],
    documents: Iterable[tuple[int, Metadata]],
    replaced: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """`types` plus the fields that documents bring, each of the type that the first of them gives it; where
    they stand for those of an index that is `replaced`, of the type that it has there, if any value still is.

    They come with their places in the listing and in any order, as workers end in any order.
    """
    first: dict[str, tuple[int, int, str]] = {}
    kept: dict[str, str] = {}
    for place, metadata in documents:
        for n, (field, value) in enumerate(metadata.items()):
            if field in types:
                continue
            name = type_name(value)
            if field not in first or place < first[field][0]:
                first[field] = place, n, name
            if name == replaced.get(field):
                kept[field] = name
    new = {field: first[field][-1] for field in sorted(first, key=first.__getitem__)}
    return dict(types) | new | kept


def conflict(metadata: Metadata, types: Mapping[str, str]) -> str:
    """Why these values do not fit the index's types, or an empty string."""
    wrong = [
        f"{field} is a {type_name(value)} here ({value!r}) but a {types[field]} in the index"
        for field, value in metadata.items()
        if type_name(value) != types[field]
    ]
    return "; ".join(wrong)
