"""Hugging Face CLIP and Chinese-CLIP at any scale. Knows nothing of the multi-scale rule or of stores."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, ChineseCLIPModel, CLIPModel
from transformers.utils import logging as transformers_logging

from pipelines.core.clip_description import MEAN, STD, describe
from pipelines.core.encoder import EncoderConfig, Pixels, Vectors
from pipelines.core.errors import UsageError
from pipelines.core.lazy import Lazy
from pipelines.core.packed import pack_linears
from pipelines.core.torch_runtime import (
    on_device,
    own_memory_error,
    pick_device,
    pick_dtype,
    require_compiler,
)

_MODELS: dict[str, Any] = {"clip": CLIPModel, "chinese_clip": ChineseCLIPModel}
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")


class ClipModel:
    """A VisualModel. Embeddings are CLIP's projected ones, or mean-pooled last hidden states (`mean`).

    Position embeddings are interpolated to each scale. A scale that is no multiple of the patch size
    loses its last pixels at the right and the bottom to the patch grid (336 with patches of 32: 16).
    """

    mean = MEAN
    std = STD

    def __init__(self, config: EncoderConfig) -> None:
        if not config.model:
            raise UsageError("encoder.kind is clip, but encoder.model names no directory or hub id")
        try:
            shape = AutoConfig.from_pretrained(config.model, revision=config.revision)
        except (OSError, ValueError) as exc:  # ValueError: a config.json of no known model
            raise UsageError(
                f"encoder.model {config.model!r} cannot be loaded: neither a model directory nor "
                "a hub id that can be reached from here"
            ) from exc
        family = shape.model_type
        described = describe(config, family)
        if config.compile:
            require_compiler("encoder.compile")
        self._compile = config.compile
        self.device = pick_device(config.device)
        self._dtype = pick_dtype(config.dtype, self.device)
        self._source = {"pretrained_model_name_or_path": config.model, "revision": config.revision}
        self._model = Lazy[Any](lambda: self._load(_MODELS[family]))
        self._mean_std = Lazy[list[torch.Tensor]](self._load_mean_std)
        self._tokenizer = Lazy[Any](lambda: AutoTokenizer.from_pretrained(**self._source))
        self._chinese = family == "chinese_clip"
        self.pooling, self.scales = described.pooling, described.scales
        self.name, self.revision = described.name, described.revision
        vision = shape.vision_config
        self.dim = vision.hidden_size if config.pooling == "mean" else shape.projection_dim
        self._max_tokens = min(77, shape.text_config.max_position_embeddings)

    def _load(self, model_class: Any) -> Any:
        transformers_logging.disable_progress_bar()
        model = model_class.from_pretrained(**self._source, dtype=self._dtype, attn_implementation="sdpa")
        model = model.to(self.device).eval()
        if self._compile:
            # A graph for each scale, of constant sides and any number of pictures: the last batch of a run is
            # smaller, and padding it would cost a lone picture the time of a whole batch. Torch treats 1 as a
            # constant, so it has a second one for lone pictures.
            model.vision_model.compile(
                dynamic=False, isolate_recompiles=True, recompile_limit=2 * len(self.scales)
            )
        else:
            pack_linears(model)
        return model

    def _load_mean_std(self) -> list[torch.Tensor]:
        """On the device once: a copy of them there waits for that of the pixels."""
        return [torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD)]

    @property
    def dtype(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    def reads(self, text: str) -> bool:
        """OpenAI's CLIP reads Latin script only; Chinese-CLIP reads Chinese and some English."""
        letters = [char for char in text if char.isalpha()]
        readable = [
            char
            for char in letters
            if unicodedata.name(char, "").startswith("LATIN") or (self._chinese and _HAN.match(char))
        ]
        return 2 * len(readable) >= len(letters)

    @own_memory_error()
    @torch.inference_mode()
    def embed_pixels(self, pixels_NHWC: Pixels) -> Vectors:
        pixels = on_device(pixels_NHWC, self.device).permute(0, 3, 1, 2).float()
        mean, std = self._mean_std()
        inputs = ((pixels - mean) / std).to(self._dtype)
        if self._compile:
            torch._dynamo.maybe_mark_dynamic(inputs, 0)
        if self.pooling == "mean":
            states = self._model().vision_model(pixel_values=inputs, interpolate_pos_encoding=True)
            return _unit(states.last_hidden_state.float().mean(dim=1))
        features = self._model().get_image_features(pixel_values=inputs, interpolate_pos_encoding=True)
        return _unit(features.pooler_output.float())

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        if self.pooling == "mean":
            raise UsageError("encoder.pooling 'mean' has no text tower: it answers picture queries only")
        tokens = self._tokenizer()(
            list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        )
        return _unit(self._model().get_text_features(**tokens.to(self.device)).pooler_output.float())


def _unit(features: torch.Tensor) -> Vectors:
    array: Vectors = torch.nn.functional.normalize(features, dim=-1).cpu().numpy()
    return array
