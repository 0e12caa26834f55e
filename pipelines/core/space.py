"""Fingerprints: what must be equal for two vectors to be comparable. Knows no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.core.errors import SpaceMismatch


@dataclass(frozen=True, slots=True)
class Space:
    """A vector space: everything that moves a vector, and nothing that does not.

    Dtype and device are not part of it: vectors within cosine .999 of fp32 are the same space.
    """

    model: str
    revision: str
    dim: int
    scales: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    pooling: str = ""
    fusion: str = ""
    preprocessing: str = ""

    def as_dict(self) -> dict[str, object]:
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @property
    def fingerprint(self) -> str:
        return digest(self.as_dict())


def digest(value: Mapping[str, object]) -> str:
    """16 hex characters of the SHA-256 of a canonical JSON form."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def require_same_space(name: str, written: Mapping[str, object], configured: Space) -> None:
    """Raise SpaceMismatch, naming what differs, unless the index's space is the configured one."""
    ours = configured.as_dict()
    if dict(written) == ours:
        return
    differing = sorted(key for key in written.keys() | ours.keys() if written.get(key) != ours.get(key))
    detail = "; ".join(f"{key}: index {written.get(key)!r}, config {ours.get(key)!r}" for key in differing)
    raise SpaceMismatch(
        f"the index's {name} space differs from the configured one ({detail}); "
        "use the model that wrote the index (of a hub's, `revision` names the commit: its branch may have "
        "moved), ingest into a new --index, or make this one anew: "
        "mmrag ingest SOURCE --rebuild"
    )


_WEIGHTS = (".safetensors", ".bin", ".json", ".txt", ".model")
_SAMPLES, _SAMPLE_BYTES = 256, 1 << 14


def weights_identity(model: str, revision: str | None) -> tuple[str, str]:
    """(name, revision) of a model that is a directory or a hub id.

    A directory goes by its own name and a hash of its files (name, size, and 256 pieces of 16 KiB,
    evenly spaced, so that no layer of a large model is passed over). So it may be moved, and other
    weights under the same path are noticed.
    """
    directory = Path(model)
    if not directory.is_dir():
        return model, revision or "main"
    hasher = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.suffix in _WEIGHTS):
        size = path.stat().st_size
        hasher.update(f"{path.relative_to(directory).as_posix()}:{size}:".encode())
        step = max(_SAMPLE_BYTES, (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                hasher.update(file.read(_SAMPLE_BYTES))
    return directory.name, hasher.hexdigest()[:16]
