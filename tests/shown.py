"""Hits with pictures, and a model whose tokens are bytes: what prompts are made of in tests."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from tiny_llava import IMAGE_TOKENS, SIDE, byte_tokenizer

from pipelines.core.generator import ModelProfile
from pipelines.core.grounding import FrameConfig
from pipelines.core.previews import Preview
from pipelines.core.types import Hit


def byte_profile(folder: Path) -> ModelProfile:
    byte_tokenizer().save_pretrained(folder)
    return ModelProfile("tiny", folder, SIDE, IMAGE_TOKENS, 1000, FrameConfig())


def hit(name: str, text: str = "", kind="image") -> Hit:
    return Hit(name, "doc", kind, 1.0, text, "source", None, {}, 1, {})


def jpeg(width: int, height: int, colour="red") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG")
    return out.getvalue()


def load(hit: Hit) -> Preview | None:
    """Previews at half the size of originals of 80 x 40 pixels; of "gone" there is none."""
    return None if hit.id == "gone" else Preview(jpeg(40, 20), 80, 40)
