"""Checkpoints of a fine-tuned LLaVA: a directory that is whole or not there at all.

    checkpoint.json             what it belongs to, its settings, its step and figures
    adapter/                    a PEFT directory; not without adapters
    thawed.safetensors          the model's own weights that learn, such as the projector; not where none does
    optimizer.safetensors       the optimizer's moments

Random state and data position are functions of the step and the settings (`llava_loop`, `llava_order`).
Knows nothing of Ray or of data.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from pipelines.core.adapter import BaseModelIdentity
from pipelines.core.errors import MmragError, UsageError
from pipelines.core.files import sync
from pipelines.train.llava_config import LlavaTraining
from pipelines.train.llava_loop import Loop, LoopState
from pipelines.train.llava_model import Trainable
from pipelines.train.llava_plan import Origin

INFO_FILE = "checkpoint.json"
ADAPTER = "adapter"
ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
THAWED, _OPTIMIZER = "thawed.safetensors", "optimizer.safetensors"
PEFT_PREFIX = "base_model.model."

# Another value of these would train other weights, or read other samples at the same step.
_FIXED = (
    *("lora", "train_all", "train_language", "train_projector", "vision_layers"),
    *("frame", "max_tokens", "seed", "eval_fraction", "optimizer", "group_by_length"),
)


class CheckpointInfo(BaseModel):
    """checkpoint.json. `eval_hash` is that of an Origin; None: of a version that did not record it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    base: BaseModelIdentity
    data_hash: str
    prompt_version: str
    eval_hash: str | None = None
    config: LlavaTraining
    step: int
    loss_scale: float
    steady: int
    figures: dict[str, float] = {}

    @property
    def origin(self) -> Origin:
        return Origin(self.base, self.data_hash, self.prompt_version, self.eval_hash or "")


def save(
    directory: Path,
    trainable: Trainable,
    loop: Loop,
    origin: Origin,
    figures: Mapping[str, float] | None = None,
) -> None:
    """Write `directory`, in place of one that is there. All workers call it; the first one writes.

    Raises MmragError where it cannot be written; what `directory` held is then as it was.
    """
    weights, state = trainable.state(), loop.state()
    if loop.place.rank:
        return
    info = CheckpointInfo(
        base=origin.base,
        data_hash=origin.data_hash,
        prompt_version=origin.prompt_version,
        eval_hash=origin.eval_hash,
        config=loop.config,
        step=state.step,
        loss_scale=state.loss_scale,
        steady=state.steady,
        figures=dict(figures or {}),
    )
    partial = directory.with_name(f".{directory.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        _write(partial, trainable, weights, state, info)
        replace_directory(directory, partial)
    except OSError as exc:
        shutil.rmtree(partial, ignore_errors=True)
        raise MmragError(
            f"checkpoint {directory} cannot be written ({exc.strerror or exc}); earlier ones are as they "
            "were. Make room there, then start again with the last one"
        ) from exc


def read_info(directory: Path) -> CheckpointInfo:
    """Raises UsageError where there is no checkpoint, or none of this version's."""
    recover(directory)
    file = directory / INFO_FILE
    try:
        return CheckpointInfo.model_validate_json(file.read_bytes())
    except OSError as exc:
        raise UsageError(f"{directory} is no checkpoint of `mmrag train llava`: no {INFO_FILE}") from exc
    except ValidationError as exc:
        raise UsageError(f"{file} is damaged or of another version of mmrag") from exc


def require_own(checkpoints: Iterable[Path], config: LlavaTraining, origin: Origin) -> None:
    """Raise UsageError where these are of another run. One that was cut short, as of a copy, says nothing."""
    for directory in checkpoints:
        if info := _whole(directory):
            _require_same(directory, info, config, origin)


def made_by(directory: Path, config: LlavaTraining, origin: Origin) -> bool:
    """Whether it is a checkpoint of a run with all the same settings, on the same data."""
    if not (info := _whole(directory)):
        return False
    there = info.config.model_copy(update={"image_root": config.image_root})  # `_differing` compares it
    return there == config and not _differing(info, config, origin)


def _whole(directory: Path) -> CheckpointInfo | None:
    try:
        return read_info(directory)
    except UsageError:
        return None


def load_weights(directory: Path, trainable: Trainable) -> None:
    """Put the checkpoint's weights into a model that was prepared with its settings.

    Raises UsageError where the files are damaged or hold other weights.
    """
    held: dict[str, Tensor] = {}
    if trainable.adapter:
        stored = read_tensors(directory / ADAPTER / ADAPTER_WEIGHTS)
        held |= {name: stored[key] for name in trainable.adapter if (key := peft_name(name)) in stored}
    if trainable.thawed:
        held |= read_tensors(directory / THAWED)
    for name, parameter in trainable.parameters().items():
        if name not in held or held[name].shape != parameter.shape:
            raise UsageError(f"checkpoint {directory} holds no weights for {name}, or of another shape")
    trainable.load(held)


def load(directory: Path, trainable: Trainable, loop: Loop, origin: Origin) -> CheckpointInfo:
    """Have `loop` go on where the checkpoint was saved. All workers call it.

    Raises UsageError for a checkpoint of another base model, data set, prompt or kind of run, or a damaged
    one, before anything is changed.
    """
    info = read_info(directory)
    _require_same(directory, info, loop.config, origin)
    moments = read_tensors(directory / _OPTIMIZER)
    load_weights(directory, trainable)
    loop.load_state(LoopState(info.step, info.loss_scale, info.steady, moments))
    return info


def peft_name(name: str) -> str:
    """An adapter weight's name in a PEFT directory, which leaves out the adapter's own name."""
    return PEFT_PREFIX + name.replace(".default.", ".")


def _require_same(directory: Path, info: CheckpointInfo, config: LlavaTraining, origin: Origin) -> None:
    if differing := _differing(info, config, origin):
        raise UsageError(
            f"checkpoint {directory} belongs to another run, these differ: {'; '.join(differing)}. Set them "
            "as they were, or start anew with another --out directory"
        )


def _differing(info: CheckpointInfo, config: LlavaTraining, origin: Origin) -> list[str]:
    """What is not as it was when the checkpoint was saved, and must be for its run to go on."""
    differing = []
    if (info.base.config, info.base.weights) != (origin.base.config, origin.base.weights):
        differing.append(f"the base model ({origin.base.name!r} here, {info.base.name!r} there)")
    if info.data_hash != origin.data_hash:
        differing.append("the training data")
    if _evaluates_otherwise(info, config, origin):
        differing.append("the evaluation data (eval_data)")
    if info.prompt_version != origin.prompt_version:
        differing.append(f"the prompt ({origin.prompt_version!r} here, {info.prompt_version!r} there)")
    fields = dict.fromkeys(_FIXED, "") | {"global_batch": ", batch_size x accumulate x num_workers"}
    if config.group_by_length:
        fields["batch_size"] = ", which group_by_length groups by"
    for field, note in fields.items():
        here, there = getattr(config, field), getattr(info.config, field)
        if here != there:
            differing.append(f"{field} ({here} here, {there} there{note})")
    here, there = config.image_root, info.config.image_root
    told = there is None or there.is_absolute()  # one of an earlier version may not say where it lay
    if told and _place(here) != _place(there):
        differing.append(f"image_root ({here} here, {there} there)")
    return differing


def _place(folder: Path | None) -> Path | None:
    """Pictures that have moved are found through a link from where they were."""
    return folder.resolve() if folder else None


def _evaluates_otherwise(info: CheckpointInfo, config: LlavaTraining, origin: Origin) -> bool:
    if info.eval_hash is None:  # of an earlier version, which says only whether there was a file
        return (info.config.eval_data is None) != (config.eval_data is None)
    return info.eval_hash != origin.eval_hash


def _write(
    directory: Path,
    trainable: Trainable,
    weights: Mapping[str, Tensor],
    state: LoopState,
    info: CheckpointInfo,
) -> None:
    directory.mkdir(parents=True)
    if trainable.adapter:
        adapter = directory / ADAPTER
        adapter.mkdir()
        tensors = {peft_name(name): weights[name] for name in trainable.adapter}
        _store(adapter / ADAPTER_WEIGHTS, to_bytes(tensors, {"format": "pt"}))
        trainable.lora_config.save_pretrained(str(adapter))
        sync(adapter / ADAPTER_CONFIG)
        sync(adapter)
    if thawed := {name: weights[name] for name in trainable.thawed}:
        _store(directory / THAWED, to_bytes(thawed))
    _store(directory / _OPTIMIZER, to_bytes(state.optimizer))
    _store(directory / INFO_FILE, info.model_dump_json(indent=2).encode() + b"\n")
    sync(directory)


def _store(file: Path, content: bytes) -> None:
    """A rename that survives a power cut must not name contents that did not."""
    file.write_bytes(content)
    sync(file)


def replace_directory(directory: Path, new: Path) -> None:
    """Have `new` take the name of `directory`, whose contents, if any, are deleted.

    A directory cannot be renamed over one that is not empty: for a moment the old one has another name.
    """
    recover(directory)
    old = _old_name(directory)
    shutil.rmtree(old, ignore_errors=True)
    if directory.exists():
        directory.rename(old)
    new.rename(directory)
    sync(directory.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(directory: Path) -> None:
    """Undo a replacement that was killed in that moment, or do what one that was killed later left."""
    old = _old_name(directory)
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(directory)


def _old_name(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.replaced")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Raises UsageError."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as exc:
        raise UsageError(f"{file} is missing or damaged: {exc}; use another checkpoint") from exc
