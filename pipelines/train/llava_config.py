"""The settings of `train llava`. Knows nothing of data or torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.core.grounding import FrameConfig


class LoraSettings(BaseModel):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) of the language model's linear layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(64, ge=0, description="rank; 0: no adapters. vLLM serves ranks above 16 only when told to")
    alpha: int = Field(128, ge=1, description="an adapter's output is scaled by alpha / r")
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="linear layers of the language model's blocks; the vision tower's are never meant",
    )


class LlavaTraining(BaseModel):
    """How a LLaVA is fine-tuned. The defaults are the field's: LoRA on all projections, batches of 4 x 8."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: str = Field("", description="directory or hub id of a LlavaForConditionalGeneration")
    image_root: Path | None = Field(None, description="pictures lie in here; default: the data file's folder")
    frame: FrameConfig = Field(FrameConfig(), description="not set: that of a base model with a manifest")
    max_tokens: int = Field(2048, ge=8, description="of a sample, its picture tokens included")

    batch_size: int = Field(4, ge=1, description="samples a worker's micro-batch")
    accumulate: int = Field(8, ge=1, description="micro-batches a worker and step")
    group_by_length: bool = Field(
        False, description="samples of about one length share a micro-batch: less padding"
    )
    steps: int = Field(3000, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: of the hidden layers' own matrices, with train_all or train_language"
    )
    warm_up: int = Field(100, ge=0, description="steps")
    clip_norm: float = Field(1.0, ge=0, description="of the whole gradient; 0: no clipping")
    seed: int = Field(0, ge=0, lt=2**32)

    lora: LoraSettings = LoraSettings()
    train_all: bool = Field(False, description="all weights learn instead of adapters: for small models")
    train_language: bool = Field(
        False, description="all of the language model's weights learn instead of adapters"
    )
    train_projector: bool = False
    vision_layers: int = Field(
        0, ge=0, description="train the last so many vision layers that the language model sees"
    )
    quantize: Literal["none", "nf4"] = Field("none", description="of the frozen language model; GPU only")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the frozen weights and of the arithmetic; what is trained stays float32"
    )
    gradient_checkpointing: bool = Field(True, description="less memory, about a third more time")
    compile: bool = Field(
        False, description="torch.compile of the language model: faster steps after minutes of compiling"
    )

    save_steps: int = Field(500, ge=1, description="between checkpoints; each is evaluated first")
    eval_fraction: float = Field(0.05, ge=0, lt=1, description="of the data, held out; not with eval_data")
    eval_data: Path | None = None
    early_stop: int = Field(0, ge=0, description="evaluations without a gain before training ends; 0: never")
    keep_checkpoints: int = Field(3, ge=1, description="the best ones by evaluation loss")

    num_workers: int = Field(1, ge=1, description="Ray Train workers")
    use_gpu: bool = False
    strategy: Literal["ddp", "fsdp"] = Field(
        "ddp", description="fsdp: for models that do not fit on one device"
    )
    cpu_offload: bool = Field(False, description="weights wait in main memory between uses; fsdp, GPUs")
    threads: int = Field(0, ge=0, description="a worker's CPU threads; 0: its share of the cores")
    loaders: int = Field(1, ge=1, description="processes that read and tokenise for each worker")
    max_failures: int = Field(3, ge=0, description="lost workers before the job fails")

    @property
    def thaws(self) -> bool:
        """Whether weights of the model's own learn, beside adapters or instead."""
        return bool(self.train_all or self.train_language or self.train_projector or self.vision_layers)

    @property
    def global_batch(self) -> int:
        """Samples a step, over all workers."""
        return self.batch_size * self.accumulate * self.num_workers

    @model_validator(mode="after")
    def _possible(self) -> LlavaTraining:
        if self.quantize == "nf4" and self.strategy == "fsdp":
            raise ValueError("quantize 'nf4' cannot be sharded: use strategy 'ddp', or quantize 'none'")
        if self.quantize == "nf4" and not self.use_gpu:
            raise ValueError("quantize 'nf4' runs on GPUs only: set use_gpu, or quantize 'none'")
        if self.cpu_offload and not (self.strategy == "fsdp" and self.use_gpu):
            raise ValueError("cpu_offload needs strategy 'fsdp' and use_gpu")
        if self.dtype == "float16" and not self.use_gpu:
            raise ValueError("dtype 'float16' trains on GPUs only: use 'bfloat16' or 'float32' on a CPU")
        parts = self.train_language or self.train_projector or self.vision_layers
        if self.train_all and (parts or self.lora.r):
            raise ValueError(
                "train_all chooses every part: set lora.r to 0, not train_language, train_projector or "
                "vision_layers"
            )
        if self.train_language and self.lora.r:
            raise ValueError("train_language is instead of adapters: set lora.r to 0")
        if (self.train_all or self.train_language) and self.quantize != "none":
            raise ValueError(
                "train_all and train_language change the language model's weights, quantize 'nf4' keeps "
                "them: use one of them"
            )
        if self.optimizer == "muon" and not (self.train_all or self.train_language):
            raise ValueError("optimizer 'muon' goes with train_all or train_language: use 'adamw'")
        if self.strategy == "fsdp" and (self.optimizer == "muon" or self.compile):
            raise ValueError("optimizer 'muon' and compile do not go with strategy 'fsdp': use 'ddp'")
        if not (self.lora.r or self.thaws):
            raise ValueError(
                "nothing to train: set lora.r, train_language, train_projector, vision_layers or train_all"
            )
        return self
