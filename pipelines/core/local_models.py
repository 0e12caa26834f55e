"""Models on this machine: where one is, whether it is whole, what it takes. Loads and fetches none."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.core.errors import UsageError

_FLOATS = {"F64", "F32", "F16", "BF16"}  # loaded in the dtype that is asked for; others stay as they are
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of a model in memory. `kv_a_token`: of its attention's memory of one token of a prompt; None
    where the names of its tensors do not tell."""

    weights: int
    kv_a_token: int | None


def find_model(setting: str, model: str, revision: str | None) -> Path:
    """The directory of a model that is named by a directory or a hub id. Raises UsageError where it is not on
    this machine."""
    if not model:
        raise UsageError(f"{setting} names no directory or hub id")
    if Path(model).is_dir():
        return Path(model).absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as exc:
        pinned = f" --revision {revision}" if revision else ""
        raise UsageError(
            f"{setting} {model!r} is no directory, and not in this machine's cache of hub models; the first "
            f"use fetches it where a hub can be reached, `hf download {model}{pinned}` does so now"
        ) from exc


def weight_files(directory: Path) -> list[Path]:
    """Raises UsageError where there are none, or not all of them."""
    if (index := directory / _INDEX).is_file():
        files = sorted({directory / name for name in json.loads(index.read_bytes())["weight_map"].values()})
    else:
        files = sorted(directory.rglob("*.safetensors")) or sorted(directory.rglob("*.bin"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise UsageError(f"{directory} lacks {', '.join(missing) or 'weights'}: fetch or export it again")
    return files


def footprint(directory: Path, float_bytes: int) -> Footprint:
    """Once loaded with floating-point numbers of so many bytes. Reads the weights' headers only.

    A token leaves one key and one value in each layer: as many numbers as the projections that make them
    have rows. Raises UsageError and ValueError for weights that are missing or damaged.
    """
    weights = kv = 0
    for file in weight_files(directory):
        if file.suffix != ".safetensors":
            weights += file.stat().st_size
            continue
        with file.open("rb") as stream:
            tensors = safetensors_header(stream)[0]
        for name, tensor in tensors.items():
            start, end = tensor["data_offsets"]
            is_float = tensor["dtype"] in _FLOATS
            weights += prod(tensor["shape"]) * float_bytes if is_float else end - start
            if is_float and "vision" not in name and name.endswith((".k_proj.weight", ".v_proj.weight")):
                kv += tensor["shape"][0] * float_bytes
    return Footprint(weights, kv or None)


def read_config(directory: Path) -> dict[str, Any]:
    """A model's config.json; {} where there is none."""
    return read_json(directory / "config.json")


def read_json(file: Path) -> dict[str, Any]:
    """{} for a file that is not there or holds no JSON object."""
    try:
        body = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def safetensors_header(stream: BinaryIO) -> tuple[dict[str, Any], int]:
    """A safetensors file's tensors and where their values start. The file is: the length of a JSON header
    (8 bytes, little-endian), the header, the values. Raises ValueError for another file."""
    length = int.from_bytes(stream.read(8), "little")
    if length > Path(stream.name).stat().st_size:
        raise ValueError(f"{stream.name} is no safetensors file")
    header: dict[str, Any] = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length
