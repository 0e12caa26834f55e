"""What a fine-tuned model belongs to: its base model, the prompt it was trained on, and its data.

The training job writes a manifest beside what it exports; whoever serves the export checks it, so that an
adapter never runs on another base or under another prompt. Knows no model library: weights are read as
bytes of safetensors files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.core.errors import UsageError
from pipelines.core.grounding import FrameConfig
from pipelines.core.local_models import safetensors_header

MANIFEST_FILE = "mmrag.json"

_SAMPLE_BYTES = 4096
# What a library adds to a config when it saves one again, and what changes no result.
_NOT_THE_MODEL = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"}


class BaseModelIdentity(BaseModel):
    """Which model, wherever it lies and however its weights are split into files.

    `name` is for people and is not compared: a directory may be moved. `config` is a hash of config.json's
    values; `weights` one of every tensor's name, type, shape and 8 KiB of its values. Names alone would pass
    any fine-tune of the same architecture, and hashing all of a large model takes minutes: a fine-tune that
    changes no tensor in its first and its middle 4 KiB is not to be found in practice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    config: str
    weights: str


class AdapterManifest(BaseModel):
    """Written beside an export, as JSON.

    `checkpoint`: a hash of its checkpoint's own account, which holds all settings; `run`: one of what all
    checkpoints of its run have in common. None: of a version that did not record it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["adapter", "merged"]
    base: BaseModelIdentity
    prompt_version: str
    data_hash: str
    frame: FrameConfig
    rank: int
    step: int
    checkpoint: str | None = None
    run: str | None = None
    mmrag_version: str

    def write(self, directory: Path) -> None:
        (directory / MANIFEST_FILE).write_text(self.model_dump_json(indent=2) + "\n", "utf-8")


def read_manifest(directory: Path) -> AdapterManifest:
    """Raises UsageError where there is none, or none of this version's."""
    file = directory / MANIFEST_FILE
    try:
        return AdapterManifest.model_validate_json(file.read_bytes())
    except FileNotFoundError as exc:
        raise UsageError(
            f"{directory} has no {MANIFEST_FILE}: it is no export of `mmrag train llava --export`"
        ) from exc
    except ValidationError as exc:
        raise UsageError(
            f"{file} is damaged or of another version of mmrag: export the checkpoint again"
        ) from exc


def own_frame(model: Path) -> FrameConfig:
    """That of a model directory with a manifest, else the default. Raises UsageError for a damaged one."""
    return read_manifest(model).frame if (model / MANIFEST_FILE).exists() else FrameConfig()


def read_adapters(
    paths: Mapping[str, Path], base: BaseModelIdentity | None, prompt_version: str, frame: FrameConfig
) -> dict[str, AdapterManifest]:
    """What the adapters say of themselves, by their names in `generator.adapters`.

    `base` None: the base model is not here to be compared. Raises UsageError, which names the adapter, for
    one that does not belong to what it is served with.
    """
    found = {}
    for name, path in paths.items():
        try:
            found[name] = read_manifest(path)
            check(found[name], base or found[name].base, prompt_version, frame)
        except UsageError as exc:
            raise UsageError(f"generator.adapters.{name}: {exc}") from exc
    return found


def check(
    manifest: AdapterManifest, base: BaseModelIdentity, prompt_version: str, frame: FrameConfig
) -> None:
    """Raise UsageError, naming what differs, unless it is an adapter of this base, prompt and frame: in
    another frame it would be shown pictures in another way, and its boxes would lie elsewhere."""
    if manifest.kind != "adapter":
        raise UsageError("it holds merged weights, no adapter: name the directory in generator.model")
    trained = manifest.base
    differing = []
    if base.config != trained.config:
        differing.append(f"the base model's config ({base.name!r} here, trained on {trained.name!r})")
    if base.weights != trained.weights:
        differing.append(f"the base model's weights ({base.name!r} here, trained on {trained.name!r})")
    if prompt_version != manifest.prompt_version:
        differing.append(f"the prompt ({prompt_version!r} here, trained with {manifest.prompt_version!r})")
    if frame != manifest.frame:
        differing.append(f"the frame ({_said(frame)} here, trained with {_said(manifest.frame)})")
    if differing:
        raise UsageError(
            f"the adapter does not belong here, these differ: {'; '.join(differing)}. "
            "Serve it with the base model, generator.frame and the version of mmrag it was trained with, or "
            "train it again"
        )


def _said(frame: FrameConfig) -> str:
    return f"{frame.fit}, {frame.units} units"


def base_identity(directory: Path) -> BaseModelIdentity:
    """The identity of a model directory. Reads 8 KiB a tensor: well below a second for 7 billion weights.

    Raises UsageError where config.json or safetensors weights are missing or damaged.
    """
    config = directory / "config.json"
    if not config.is_file():
        raise UsageError(f"{directory} is no model directory: it has no config.json")
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{directory} has no safetensors weights: save the model in that format")
    try:
        settings = _canonical(json.loads(config.read_bytes()))
        tensors = {name: sample for file in files for name, sample in _samples(file).items()}
    except ValueError as exc:
        raise UsageError(f"{directory} is damaged: {exc}") from exc
    return BaseModelIdentity(name=directory.name, config=_digest(settings), weights=_digest(tensors))


def hub_name(name: str) -> str:
    """A LLaVA's tensor as checkpoints on model hubs and vLLM name it, from any name transformers gave it.

    transformers 5 moved the parts below `model.` and dropped CLIP's `vision_model.`; it writes the old or the
    new names, depending on what it read, and it reads both. vLLM 0.29 reads the old ones only.
    """
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    name = name.removeprefix("model.")
    if name.startswith("language_model.") and not name.startswith(
        ("language_model.model.", "language_model.lm_head.")
    ):
        return name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def tensor_names(directory: Path) -> set[str]:
    """The names that the safetensors files of a model directory use."""
    names: set[str] = set()
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as stream:
            names.update(safetensors_header(stream)[0])
    return names


def _samples(file: Path) -> dict[str, list[Any]]:
    """{hub name: [type, shape, hash of samples]} of a safetensors file."""
    found: dict[str, list[Any]] = {}
    with file.open("rb") as stream:
        header, values = safetensors_header(stream)
        for name, tensor in header.items():
            start, end = tensor["data_offsets"]
            sample = hashlib.sha256()
            for offset in (start, (start + end) // 2):
                stream.seek(values + offset)
                sample.update(stream.read(min(_SAMPLE_BYTES, end - offset)))
            found[hub_name(name)] = [tensor["dtype"], tensor["shape"], sample.hexdigest()]
    return found


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items() if key not in _NOT_THE_MODEL}
    return value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
