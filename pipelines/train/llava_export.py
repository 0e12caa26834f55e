"""A checkpoint of `train llava` -> a directory that vLLM serves: an adapter of the base, or all merged.

`merged` is the base model's own directory with the trained tensors changed, tensor by tensor and file by
file, so that nothing passes through a library that renames or drops something, and memory holds one file of
weights. Knows nothing of training, Ray or vLLM itself.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipelines import __version__
from pipelines.core.adapter import (
    MANIFEST_FILE,
    AdapterManifest,
    base_identity,
    hub_name,
    read_manifest,
    tensor_names,
)
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.files import sync
from pipelines.core.space import digest
from pipelines.train.llava_checkpoint import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    INFO_FILE,
    PEFT_PREFIX,
    THAWED,
    CheckpointInfo,
    read_info,
    read_tensors,
    recover,
    replace_directory,
)
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_model import base_directory
from pipelines.train.llava_plan import Origin

Kind = Literal["adapter", "merged"]

_VLLM_DEFAULT_RANK = 16
_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_INDEX = "model.safetensors.index.json"
# Config, tokenizer, processor and chat template: what is not weights, nor a list of them.
_BESIDE_WEIGHTS = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class LlavaExport:
    """`warnings`: lines for the user, such as an option that vLLM must be started with."""

    directory: Path
    manifest: AdapterManifest
    warnings: tuple[str, ...] = ()


def export_llava(
    checkpoint: Path, out: Path, kind: Kind, base_model: str = "", replace: bool = False
) -> LlavaExport:
    """Write `out` and its manifest; it is whole or not there at all.

    An `out` that an earlier call wrote, by its manifest of the same checkpoint, is left as it is and said in
    the warnings: a job that is started again ends well. One of another checkpoint of the same run, with the
    same settings but `steps`, gives way where `replace` says so. `base_model` says where the base model lies
    now, if not where the training found it. Raises UsageError for what is no checkpoint, another base model,
    an `out` that holds something else, and an `adapter` of what was not trained as one; MmragError where
    `out` cannot be written.
    """
    out = out.resolve()  # a link stays, to a larger disk, say
    info = read_info(checkpoint)
    require_exportable(info.config, kind)
    named = base_model or info.config.base_model
    base = base_directory(named)
    manifest = _manifest(checkpoint, info, kind, base)
    warnings = _warnings(info, base) if kind == "adapter" else ()
    if (held := _held(out)) is not None:
        if _same(held, manifest):
            kept = f"{out} is there already, of step {info.step} and the same data: it is left as it is"
            return LlavaExport(out, manifest, (*warnings, kept))
        if not replace:
            raise _occupied(out, f" (an export of step {held.step})")
        _require_replaceable(out, held, manifest.run, base)
        warnings = (*warnings, f"{out} was an export of this run's step {held.step}: it is replaced")

    def write(directory: Path) -> None:
        if kind == "adapter":
            _write_adapter(checkpoint / ADAPTER, directory, named)
        else:
            _write_merged(checkpoint, base, directory, info)
        manifest.write(directory)

    _write_whole(out, write, replace=held is not None)
    return LlavaExport(out, manifest, warnings)


def require_exportable(config: LlavaTraining, kind: Kind) -> None:
    """Raise UsageError where what `config` trains cannot be exported so. Known before the training."""
    learning = {
        "all weights": config.train_all,
        "the language model's own weights": config.train_language,
        "the projector": config.train_projector,
        "vision layers": config.vision_layers,
    }
    beyond = " and ".join(part for part, some in learning.items() if some)
    if kind == "adapter" and beyond:
        raise UsageError(
            f"the training changes {beyond} too, and vLLM's adapters hold low ranks of the language model "
            "only: use --export merged"
        )


def require_room(
    out: Path, kind: Kind, config: LlavaTraining, origin: Origin, base: Path, taken_up: bool
) -> None:
    """Raise UsageError where `out` holds what a run's export does not replace. Known before the training.

    It replaces an export of the run's own, so only one that was there when the run is `taken_up` again.
    """
    out = out.resolve()
    if (held := _held(out)) is not None:
        run = _run_of(kind, config, origin) if taken_up else None
        _require_replaceable(out, held, run, base)


def _held(out: Path) -> AdapterManifest | None:
    """What the export in `out` says of itself; None where there is nothing. Raises UsageError for what is no
    export."""
    recover(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST_FILE).is_file():
        raise _occupied(out)
    try:
        return read_manifest(out)
    except UsageError as exc:
        raise _occupied(out, ": an export whose manifest cannot be read") from exc


def _occupied(out: Path, held: str = "") -> UsageError:
    return UsageError(f"{out} is there already and not empty{held}: move it away, or name another directory")


def _require_replaceable(out: Path, held: AdapterManifest, run: str | None, base: Path) -> None:
    """Raise UsageError unless `out`, which will be deleted, is an export of the run and nothing besides."""
    if run is None or held.run != run:
        raise _occupied(out, f" (an export of another run, of step {held.step})")
    written = {MANIFEST_FILE, ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    if held.kind == "merged":
        suffixes = (*_BESIDE_WEIGHTS, ".safetensors")
        written = {MANIFEST_FILE, *(file.name for file in base.iterdir() if file.suffix in suffixes)}
    if added := {file.name for file in out.iterdir()} - written:
        raise _occupied(out, f" (files beside the export, such as {min(added)!r})")


def _run_of(kind: Kind, config: LlavaTraining, origin: Origin) -> str:
    """A hash of what all exports of a run have in common: all but its steps, and where its files lie."""
    settings = config.model_dump(mode="json", exclude={"steps", "base_model", "image_root", "eval_data"})
    base = origin.base.config, origin.base.weights
    hashes = origin.data_hash, origin.eval_hash, origin.prompt_version
    return digest({"kind": kind, "settings": settings, "base": base, "hashes": hashes})


def _same(held: AdapterManifest, manifest: AdapterManifest) -> bool:
    """Whether both are of one checkpoint, whichever version of mmrag exported it."""
    alike = _lasting(held) == _lasting(manifest)
    return alike and held.checkpoint in (None, manifest.checkpoint)


def _lasting(manifest: AdapterManifest) -> dict[str, object]:
    besides = {"mmrag_version", "checkpoint", "run"}
    return manifest.model_dump(exclude=besides) | {"base": manifest.base.model_dump(exclude={"name"})}


def _manifest(checkpoint: Path, info: CheckpointInfo, kind: Kind, base: Path) -> AdapterManifest:
    identity = base_identity(base)
    if (identity.config, identity.weights) != (info.base.config, info.base.weights):
        raise UsageError(
            f"the base model at {base} is not the one that was trained on ({info.base.name!r}): its config "
            "or weights differ. Name the right one with base_model"
        )
    return AdapterManifest(
        kind=kind,
        base=info.base,
        prompt_version=info.prompt_version,
        data_hash=info.data_hash,
        frame=info.config.frame,
        rank=info.config.lora.r,
        step=info.step,
        checkpoint=hashlib.sha256((checkpoint / INFO_FILE).read_bytes()).hexdigest(),
        run=_run_of(kind, info.config, info.origin),
        mmrag_version=__version__,
    )


def _warnings(info: CheckpointInfo, base: Path) -> tuple[str, ...]:
    found = []
    rank = info.config.lora.r
    served = next((allowed for allowed in _VLLM_RANKS if allowed >= rank), None)
    if served is None:
        found.append(f"the adapter's rank is {rank}, vLLM serves up to {_VLLM_RANKS[-1]}: export it merged")
    elif rank > _VLLM_DEFAULT_RANK:
        found.append(
            f"the adapter's rank is {rank}: start vLLM with max_lora_rank {served} "
            f"(its default is {_VLLM_DEFAULT_RANK})"
        )
    if any(hub_name(name) != name for name in tensor_names(base)):
        found.append(
            f"vLLM cannot load the base model {base}, whose weights have the names of transformers 5: "
            "serve a merged export, or a base model with the older names"
        )
    return tuple(found)


def _write_adapter(adapter: Path, directory: Path, base_model: str) -> None:
    for file in sorted(adapter.iterdir()):
        shutil.copyfile(file, directory / file.name)
    config = directory / ADAPTER_CONFIG
    settings = json.loads(config.read_bytes())
    settings |= {"base_model_name_or_path": base_model, "inference_mode": True}
    config.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")


@dataclass(frozen=True, slots=True)
class _Trained:
    """What was trained, by the hub's names of the tensors that it changes."""

    scale: float
    down: dict[str, Tensor]  # (rank, inputs)
    up: dict[str, Tensor]  # (outputs, rank)
    thawed: dict[str, Tensor]

    @property
    def names(self) -> set[str]:
        return {*self.up, *self.thawed}

    def applied(self, name: str, base: Tensor) -> Tensor:
        """The tensor as trained, of the base's type: the arithmetic is float32, rounded once."""
        if name in self.thawed:
            whole = self.thawed[name]
        elif name in self.up:
            whole = base.float() + self.scale * (self.up[name].float() @ self.down[name].float())
        else:
            return base
        if whole.shape != base.shape:
            raise UsageError(f"the checkpoint's {name} has another shape than the base model's")
        return whole.to(base.dtype)


def _read_trained(checkpoint: Path, info: CheckpointInfo) -> _Trained:
    lora, thawed = info.config.lora, {}
    sides: dict[str, dict[str, Tensor]] = {"lora_A": {}, "lora_B": {}}
    if lora.r:
        for name, tensor in read_tensors(checkpoint / ADAPTER / ADAPTER_WEIGHTS).items():
            layer, side, _ = name.removeprefix(PEFT_PREFIX).rsplit(".", 2)
            sides[side][hub_name(f"{layer}.weight")] = tensor
    if info.config.thaws:
        thawed = {hub_name(name): tensor for name, tensor in read_tensors(checkpoint / THAWED).items()}
    return _Trained(lora.alpha / max(lora.r, 1), sides["lora_A"], sides["lora_B"], thawed)


def _write_merged(checkpoint: Path, base: Path, directory: Path, info: CheckpointInfo) -> None:
    trained = _read_trained(checkpoint, info)
    places: dict[str, str] = {}
    for file in sorted(base.glob("*.safetensors")):
        places |= dict.fromkeys(_merge_file(file, directory / file.name, trained), file.name)
    if unknown := trained.names - places.keys():
        raise UsageError(f"{checkpoint} trained weights that {base} does not have, such as {min(unknown)}")
    for file in sorted(base.iterdir()):
        if file.suffix in _BESIDE_WEIGHTS and file.name != _INDEX:
            shutil.copyfile(file, directory / file.name)
    if (base / _INDEX).is_file():
        index = json.loads((base / _INDEX).read_bytes()) | {"weight_map": places}
        (directory / _INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _merge_file(source: Path, target: Path, trained: _Trained) -> list[str]:
    """The names of its tensors. When it returns, memory holds none of them: files come one by one."""
    tensors = {hub_name(name): tensor for name, tensor in read_tensors(source).items()}
    merged = {name: trained.applied(name, tensor) for name, tensor in tensors.items()}
    save_file(merged, target, {"format": "pt"})
    return list(merged)


def _write_whole(out: Path, write: Callable[[Path], None], replace: bool) -> None:
    """Have `write` fill a directory beside `out`, which then takes its name, and where it is to `replace`
    one that holds something, its place."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir(parents=True)
        write(partial)
        for written in (*partial.iterdir(), partial):
            sync(written)  # before it takes the place of another
        if replace:
            replace_directory(out, partial)
        else:
            partial.replace(out)  # also over an empty directory
    except (OSError, SafetensorError) as exc:
        raise MmragError(f"{out} cannot be written: {exc}") from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)
