"""An aligner that reads the pictures anew: a BLIP-2 trained to match images and texts, from a hub.

Li et al., arXiv 2301.12597; `Blip2ForImageTextRetrieval`, such as Salesforce/blip2-itm-vit-g. Dear: a vision
transformer over every candidate, so on a GPU only, in practice. Imports torch: import it late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, Blip2ForImageTextRetrieval

from pipelines.core import images
from pipelines.core.aligner import AlignerConfig, Asked, Candidates
from pipelines.core.errors import BadImage, UsageError
from pipelines.core.previews import read_preview
from pipelines.core.torch_runtime import pick_device, pick_dtype

Array = NDArray[np.float32]

_AT_ONCE = 16
_MAX_TOKENS = 128


class Blip2Aligner:
    """An Aligner; its relevance is the logit of a match less that of none. A candidate whose preview is gone
    or damaged comes last."""

    def __init__(self, config: AlignerConfig, previews: Path) -> None:
        self._previews = previews
        self._device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, self._device)
        try:
            self._processor: Any = AutoProcessor.from_pretrained(config.model, revision=config.revision)
            loaded: Any = Blip2ForImageTextRetrieval.from_pretrained(
                config.model, revision=config.revision or "main", dtype=dtype, output_loading_info=True
            )
        except (OSError, ValueError) as exc:
            raise UsageError(
                f"search.aligner.model {config.model!r} is no BLIP-2 for matching: {exc}"
            ) from exc
        model, report = loaded
        if missing := [name for name in report["missing_keys"] if name.startswith("itm_head.")]:
            raise UsageError(
                f"search.aligner.model {config.model!r} is no BLIP-2 for matching: it lacks {missing[0]}"
            )
        self._model = model.to(self._device).eval()

    def relevance(self, asked: Sequence[Asked], candidates: Sequence[Candidates]) -> list[Array]:
        return [
            self._relevance(one.words, shown.contents) for one, shown in zip(asked, candidates, strict=True)
        ]

    def _relevance(self, words: str, contents: Sequence[str]) -> Array:
        scores = np.full(len(contents), -np.inf, dtype=np.float32)
        pictures = {at: picture for at, one in enumerate(contents) if (picture := self._picture(one))}
        places = list(pictures)
        for start in range(0, len(places), _AT_ONCE):
            batch = places[start : start + _AT_ONCE]
            scores[batch] = self._matches(words, [pictures[at] for at in batch])
        return scores

    @torch.inference_mode()
    def _matches(self, words: str, pictures: Sequence[Image.Image]) -> Array:
        inputs = self._processor(
            images=list(pictures), text=[words] * len(pictures), return_tensors="pt",
            truncation=True, max_length=_MAX_TOKENS,
        ).to(self._device, self._model.dtype)  # fmt: skip
        logits = self._model(**inputs, use_image_text_matching_head=True).logits_per_image.float()
        found: Array = (logits[:, 1] - logits[:, 0]).cpu().numpy()
        return found

    def _picture(self, content: str) -> Image.Image | None:
        try:
            preview = read_preview(self._previews, content)
            return images.decode(preview.data).image if preview else None
        except (BadImage, OSError):
            return None
