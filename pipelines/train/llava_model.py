"""A LLaVA made ready to be trained: what is loaded, which weights learn, and the loss of a batch.

Names of parameters are those of the LlavaForConditionalGeneration itself, whatever wraps it. Knows nothing
of data files, steps or Ray.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional
from transformers import AutoConfig, BitsAndBytesConfig, LlavaForConditionalGeneration

from pipelines.core.adapter import own_frame
from pipelines.core.errors import MissingDependency, UsageError, install_line
from pipelines.train.llava_config import LlavaTraining

_LANGUAGE = ("model.language_model.", "lm_head.")

IGNORED = -100
"""The label of a position that nothing is to be learnt from."""


def base_directory(base_model: str) -> Path:
    """Where the base model lies; a hub id is fetched first, or found in the hub's cache.

    Raises UsageError where it can be neither read nor reached.
    """
    directory = Path(base_model)
    if not base_model:
        raise UsageError(
            "train.llava.base_model names no directory or hub id: set it, by --set or "
            "MMRAG_TRAIN__LLAVA__BASE_MODEL"
        )
    if directory.is_dir():
        return directory
    try:
        return Path(snapshot_download(base_model))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise UsageError(
            f"base_model {base_model!r} cannot be loaded: neither a model directory nor a hub id that can be "
            "reached from here"
        ) from exc


def in_own_frame(config: LlavaTraining, base: Path) -> LlavaTraining:
    """Where the settings name no frame, that of the base model: its adapters are served in it."""
    if "frame" in config.model_fields_set:
        return config
    return config.model_copy(update={"frame": own_frame(base)})


def training_dtype(config: LlavaTraining, device: str) -> torch.dtype:
    """`auto`: bfloat16 where the device computes in it natively, else float16 on a GPU, float32 on a CPU."""
    if config.dtype != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[config.dtype]
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def load_base(config: LlavaTraining, device: str) -> LlavaForConditionalGeneration:
    """The base model on `device`, every weight frozen. To be sharded, it is loaded on the CPU.

    Raises UsageError for another architecture, missing weights, and settings that the device cannot do;
    MissingDependency where 4-bit weights are asked for without bitsandbytes.
    """
    directory = base_directory(config.base_model)
    on_gpu = device.startswith("cuda") or config.use_gpu
    dtype = training_dtype(config, "cuda" if on_gpu else device)
    if dtype == torch.float16 and not on_gpu:
        raise UsageError("dtype 'float16' trains on GPUs only: use 'bfloat16' or 'float32' on a CPU")
    options: dict[str, Any] = {"dtype": dtype}
    if config.quantize == "nf4":
        options |= {"quantization_config": _nf4(dtype, device), "device_map": {"": device}}
    try:
        family = AutoConfig.from_pretrained(directory).model_type
    except (OSError, ValueError) as exc:  # ValueError: a config.json of no known model
        raise UsageError(f"base_model {config.base_model!r} cannot be loaded: {exc}") from exc
    if family != "llava":
        raise UsageError(
            f"base_model {config.base_model!r} is a {family!r} model; wanted a llava "
            "(LlavaForConditionalGeneration)"
        )
    try:
        loaded: Any = LlavaForConditionalGeneration.from_pretrained(
            directory, output_loading_info=True, **options
        )
    except (OSError, ValueError, SafetensorError) as exc:
        raise UsageError(f"base_model {config.base_model!r} cannot be loaded: {exc}") from exc
    model, found = loaded
    if found["missing_keys"]:  # transformers would go on with random values
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise UsageError(f"base_model {config.base_model!r} lacks weights, such as {some}")
    model.requires_grad_(False)
    placed: LlavaForConditionalGeneration = model if config.quantize == "nf4" else model.to(device)
    return placed


def _nf4(dtype: torch.dtype, device: str) -> BitsAndBytesConfig:
    if not device.startswith("cuda"):
        raise UsageError("quantize 'nf4' runs on GPUs only: set quantize to 'none'")
    if find_spec("bitsandbytes") is None:
        raise MissingDependency(f"quantize 'nf4' needs: {install_line('gpu')}")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # What may be trained, or feeds the loss, keeps its precision.
        llm_int8_skip_modules=["vision_tower", "multi_modal_projector", "lm_head"],
    )


_ROWS = 256


class TokenLoss(nn.Module):
    """`forward` is the summed loss of a batch, so that a data-parallel wrapper sees all that is used."""

    def __init__(
        self, llava: LlavaForConditionalGeneration, dtype: torch.dtype, pictures_learn: bool
    ) -> None:
        super().__init__()
        self.llava = llava
        self._dtype = dtype
        self._pictures_learn = pictures_learn

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The negative log-likelihood, float32, summed over the labelled tokens (0 without any).

        `batch`: input_ids and labels (B, L), padded on the right, IGNORED where nothing is learnt;
        pixel_values (N, 3, side, side) of the pictures in reading order, absent where there is none. No mask:
        a causal model sees nothing of what comes later. Logits are made for the positions that have a label
        only: most of a conversation is question and picture.
        """
        with torch.autocast(
            batch["input_ids"].device.type, dtype=self._dtype, enabled=self._dtype != torch.float32
        ):
            hidden_BLD = self.llava.model(**self._inputs(batch), use_cache=False).last_hidden_state
            next_BL = batch["labels"][:, 1:]
            learnt = next_BL != IGNORED
            hidden_ND = hidden_BLD[:, :-1][learnt]
            rows = len(hidden_ND)
            # Few shapes: kernels are made for each one, and memory never comes back whole.
            padded = functional.pad(hidden_ND, (0, 0, 0, -rows % _ROWS))
            logits_NV = self.llava.lm_head(padded)[:rows]
            return functional.cross_entropy(logits_NV.float(), next_BL[learnt], reduction="sum")

    def _inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch's tokens and pictures. Where pictures are learnt from and there is none, a blank one is
        looked at and multiplied by 0: data-parallel workers wait for each other's gradient of every weight,
        layer by layer, and another worker may have a picture."""
        if "pixel_values" in batch:
            return {"input_ids": batch["input_ids"], "pixel_values": batch["pixel_values"]}
        if not (self.training and self._pictures_learn):
            return {"input_ids": batch["input_ids"]}
        vision: Any = self.llava.config.vision_config
        blank = torch.zeros(1, 3, vision.image_size, vision.image_size, device=batch["input_ids"].device)
        seen = self.llava.model.get_image_features(pixel_values=blank, return_dict=True).pooler_output
        embedded_BLD = self.llava.get_input_embeddings()(batch["input_ids"])
        return {"inputs_embeds": embedded_BLD + 0.0 * torch.cat(tuple(seen)).sum()}


@dataclass(frozen=True, slots=True)
class Trainable:
    """A model and the names of its weights that learn, by the part that they belong to."""

    loss: TokenLoss
    lora_config: Any
    """peft's LoraConfig; None without adapters."""
    adapter: tuple[str, ...]
    projector: tuple[str, ...]
    vision: tuple[str, ...]
    language: tuple[str, ...] = ()
    """The language model's own weights, and its head's."""

    @property
    def llava(self) -> LlavaForConditionalGeneration:
        return self.loss.llava

    @property
    def names(self) -> tuple[str, ...]:
        return self.adapter + self.thawed

    @property
    def thawed(self) -> tuple[str, ...]:
        """The model's own weights that learn."""
        return self.projector + self.vision + self.language

    def parameters(self) -> dict[str, nn.Parameter]:
        """In the order of `names`. Ask again after sharding, which replaces them."""
        every = dict(self.llava.named_parameters())
        return {name: every[name] for name in self.names}

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU of the weights that learn. Collective where they are sharded."""
        return {name: gathered(parameter) for name, parameter in self.parameters().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave. `state` must have every name, and each in its shape."""
        for name, parameter in self.parameters().items():
            fill(parameter, state[name])


def prepare_trainable(
    model: LlavaForConditionalGeneration, config: LlavaTraining, device: str = "cpu"
) -> Trainable:
    """Put adapters into the model's language model, or thaw its own weights, and thaw the projector and
    vision layers asked for; or thaw every weight that the answer depends on.

    What learns is float32 whatever the rest is. The adapters' first values depend on `config.seed` only.
    Raises UsageError for a target that no layer has or for more vision layers than receive gradient;
    MissingDependency without peft.
    """
    model.requires_grad_(False)
    lora_config = _add_adapters(model, config) if config.lora.r else None
    if config.train_all:
        model.float()  # the vision layers that nobody reads run too, on what float32 ones give
    learning = _learning(model, config)
    for parameter in learning:
        parameter.requires_grad_(True)
        parameter.data = parameter.data.float()
    if config.gradient_checkpointing:
        _recompute_activations(model)
    if config.compile:
        model.model.language_model.compile(dynamic=True)  # in place: weights keep their names
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    on_gpu = device.startswith("cuda") or config.use_gpu
    dtype = training_dtype(config, "cuda" if on_gpu else device)
    projector = tuple(name for name in names if name.startswith("model.multi_modal_projector."))
    vision = tuple(name for name in names if name.startswith("model.vision_tower."))
    return Trainable(
        loss=TokenLoss(model, dtype, pictures_learn=bool(projector or vision)),
        lora_config=lora_config,
        adapter=tuple(name for name in names if ".lora_" in name),
        projector=projector,
        vision=vision,
        language=tuple(name for name in names if name.startswith(_LANGUAGE) and ".lora_" not in name),
    )


def _learning(model: LlavaForConditionalGeneration, config: LlavaTraining) -> list[nn.Parameter]:
    """The model's own weights that are to learn."""
    modules: list[nn.Module] = []
    if config.train_all or config.train_language:
        modules += [model.model.language_model, model.lm_head]
    if config.train_all or config.train_projector:
        modules.append(model.model.multi_modal_projector)
    modules += seen_vision_layers(model, config.vision_layers)
    # A head that is tied to the embeddings is met twice.
    own = list(dict.fromkeys(weight for module in modules for weight in module.parameters()))
    return own + _seen_vision_weights(model) if config.train_all else own


def _add_adapters(model: LlavaForConditionalGeneration, config: LlavaTraining) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as exc:
        raise MissingDependency(f"lora needs: {install_line('train')}") from exc
    layers = r"model\.language_model\.layers\.\d+\.(?:.+\.)?"
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    there = {name.rpartition(".")[2] for name in linear if re.match(layers, name)}
    unknown = sorted(set(config.lora.targets) - there)
    if unknown:
        raise UsageError(
            f"lora.targets: the language model has no linear layer called {', '.join(unknown)}; it has "
            f"{', '.join(sorted(there))}"
        )
    # Full paths: a bare "q_proj" would also match the vision tower's attention.
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=f"{layers}(?:{'|'.join(config.lora.targets)})",
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)  # the same on every worker: sharding does not broadcast
        get_peft_model(model, lora)  # in place; the wrapper it returns only changes names
    return lora


def seen_vision_layers(model: LlavaForConditionalGeneration, wanted: int) -> list[nn.Module]:
    """The last `wanted` vision layers whose output reaches the language model.

    LLaVA reads the hidden states `vision_feature_layer` (one or several; 0 is the embeddings, i the output
    of layer i - 1, negative ones count from the end), so layers after the highest of them get no gradient.
    Raises UsageError where there are fewer.
    """
    if not wanted:
        return []
    layers, seen = _vision_layers(model)
    if wanted > seen:
        raise UsageError(
            f"vision_layers is {wanted}, but only {seen} of the {len(layers)} vision layers reach the "
            f"language model (vision_feature_layer is {model.config.vision_feature_layer})"
        )
    return list(layers[seen - wanted : seen])


def _vision_layers(model: LlavaForConditionalGeneration) -> tuple[nn.ModuleList, int]:
    """All of them, and how many reach the language model."""
    vision: Any = model.config.vision_config
    count = vision.num_hidden_layers
    parts = model.model.vision_tower.modules()
    layers = next(part for part in parts if isinstance(part, nn.ModuleList) and len(part) == count)
    read = model.config.vision_feature_layer
    states = [read] if isinstance(read, int) else list(read)
    return layers, max(state if state >= 0 else count + 1 + state for state in states)


def _seen_vision_weights(model: LlavaForConditionalGeneration) -> list[nn.Parameter]:
    """The tower's weights that the language model sees something of: those behind the layers that it reads
    would get no gradient, for which data-parallel workers would wait."""
    layers, seen = _vision_layers(model)
    unseen = {id(weight) for layer in layers[seen:] for weight in layer.parameters()}
    weights = list(model.model.vision_tower.parameters())  # embeddings, layers, what comes behind them
    last = list(layers.parameters())[-1]
    end = 1 + next(place for place, weight in enumerate(weights) if weight is last)
    return [weight for weight in weights[:end] if id(weight) not in unseen]


def _recompute_activations(model: LlavaForConditionalGeneration) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": False})
    # transformers also asks for gradient at every embedding, as reentrant checkpoints need. It would run
    # backwards through the frozen vision tower for nothing.
    model.disable_input_require_grads()
    for part in model.model.vision_tower.modules():
        if getattr(part, "gradient_checkpointing", False) and not _learns(part):
            part.gradient_checkpointing = False


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def shard(loss: nn.Module, mesh: DeviceMesh, cpu_offload: bool = False) -> nn.Module:
    """FSDP2 of a TokenLoss over `mesh`: each decoder layer by itself, then the rest. Returns the same module.

    Gradients are averaged over the workers, as DistributedDataParallel does.
    """
    assert isinstance(loss, TokenLoss)
    policy = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    for layer in loss.llava.model.language_model.layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(loss, mesh=mesh, offload_policy=policy)
    return loss


def gathered(value: Tensor) -> Tensor:
    """A copy of a whole tensor on the CPU. Collective where it is sharded."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().to("cpu", copy=True)


@torch.no_grad()
def fill(target: Tensor, whole: Tensor) -> None:
    """Copy a whole tensor into `target`, or this worker's part of it where `target` is sharded."""
    assert target.shape == whole.shape
    if isinstance(target, DTensor):
        mesh = target.device_mesh
        part = distribute_tensor(whole.to(mesh.device_type), mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(whole)
