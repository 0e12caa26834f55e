"""A tiny LLaVA with a checkpoint of `train llava` whose weights changed visibly, as after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tiny_llava import tiny_llava, tiny_processor
from transformers import LlavaForConditionalGeneration

from pipelines.core.adapter import base_identity, hub_name
from pipelines.train.llava_checkpoint import save
from pipelines.train.llava_config import LlavaTraining, LoraSettings
from pipelines.train.llava_loop import Loop
from pipelines.train.llava_model import Trainable, prepare_trainable
from pipelines.train.llava_plan import Origin


def save_base(directory: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Path:
    """A base model on disk. Its weights are larger than a new model's: nearly equal logits would make greedy
    tokens a matter of rounding."""
    model = tiny_llava(seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    model.to(dtype).save_pretrained(directory, **options)
    tiny_processor().save_pretrained(directory)
    return directory


def as_on_a_hub(directory: Path) -> Path:
    """Give the weights the names that checkpoints on model hubs have, and that vLLM reads."""
    for file in directory.glob("*.safetensors"):
        tensors = {hub_name(name): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, file, {"format": "pt"})
    return directory


def save_tuned(base: Path, checkpoint: Path, rank: int = 4, **settings: Any) -> Trainable:
    """Write a checkpoint, and return the model as it was saved."""
    config = LlavaTraining(
        base_model=str(base),
        lora=LoraSettings(r=rank, alpha=2 * max(rank, 1)),
        dtype="float32",
        gradient_checkpointing=False,
        **settings,
    )
    model = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    tuned = prepare_trainable(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters().values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.eval()
    save(checkpoint, tuned, Loop(tuned, config), Origin(base_identity(base), "sha256-of-data", "1"))
    return tuned
