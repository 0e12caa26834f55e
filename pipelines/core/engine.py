"""A generator in this process: transformers. For machines and commands where vLLM does not run.

One answer at a time; the next waits. Knows nothing of evidence.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.core.adapter import base_identity, read_adapters
from pipelines.core.errors import MissingDependency, UsageError, install_line
from pipelines.core.generator import (
    TINY_LLAVA,
    GeneratorConfig,
    Prompt,
    Sampling,
    frame_of,
    model_directory,
    prompt_text,
)
from pipelines.core.lazy import Lazy
from pipelines.core.prompts import PROMPT_VERSION
from pipelines.core.torch_runtime import pick_device, pick_dtype
from pipelines.core.types import Usage


class TransformersEngine:
    """Loads the model with the first answer. Raises UsageError for a model or adapter that cannot be used."""

    def __init__(self, config: GeneratorConfig) -> None:
        self._config = config
        self._loaded = Lazy(self._load)
        # Its one thread is whose turn it is, for all event loops: a lock of asyncio's belongs to one of them.
        self._turns = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def load(self) -> None:
        self._loaded()

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        """The answer in pieces, and what it took. Closing the generator ends the work after the token at
        hand."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        stop = threading.Event()

        def put(piece: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        turn = self._turns.submit(copy_context().run, self._generate, prompt, sampling, put, stop)
        work = asyncio.wrap_future(turn)
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await work
        finally:
            stop.set()
            if not turn.cancel():  # it has begun
                await asyncio.wait([work])

    def _generate(
        self, prompt: Prompt, sampling: Sampling, put: Callable[[str], None], stop: threading.Event
    ) -> Usage:
        from transformers import StoppingCriteriaList, TextStreamer

        model, processor = self._loaded()

        class Pieces(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                if text:
                    put(text)

        text, wants_first = prompt_text(processor, prompt.turns)
        pictures = [Image.open(io.BytesIO(png)) for png in prompt.pictures]
        inputs = processor(
            text=text, images=pictures or None, add_special_tokens=wants_first, return_tensors="pt"
        )
        sampled = sampling.temperature > 0
        how = {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampled else {}
        self._choose(model, sampling.adapter)
        with torch.inference_mode():
            written = model.generate(
                **inputs.to(model.device, model.dtype),
                max_new_tokens=sampling.max_tokens,
                do_sample=sampled,
                **how,
                streamer=Pieces(processor.tokenizer, skip_prompt=True, skip_special_tokens=True),
                stopping_criteria=StoppingCriteriaList([lambda *_, **__: stop.is_set()]),
            )[0].tolist()
        asked = inputs["input_ids"].shape[1]
        ends = np.atleast_1d(model.generation_config.eos_token_id)
        return Usage(asked, len(written) - asked, cut=written[-1] not in ends)

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model: Any
        source, revision = self._config.model or str(TINY_LLAVA), self._config.revision
        device = pick_device(self._config.device)
        dtype = pick_dtype(self._config.dtype, device)
        try:
            # Pictures come in the model's square: the processor's own back end does nothing to them.
            processor = AutoProcessor.from_pretrained(source, revision=revision, backend="pil")
            model = AutoModelForImageTextToText.from_pretrained(source, revision=revision, dtype=dtype)
        except (OSError, ValueError) as exc:
            raise UsageError(f"generator.model {source}: {' '.join(str(exc).split())[:300]}") from exc
        self._check_adapters()
        for name, adapter in self._config.adapters.items():
            try:
                model.load_adapter(str(adapter), adapter_name=name)
            except ImportError as exc:
                raise MissingDependency(f"generator.adapters need: {install_line('train')}") from exc
        return model.to(device).eval(), processor

    def _check_adapters(self) -> None:
        if self._config.adapters:
            directory = model_directory(self._config)
            frame = frame_of(self._config, directory)
            read_adapters(self._config.adapters, base_identity(directory), PROMPT_VERSION, frame)

    def _choose(self, model: Any, name: str) -> None:
        if name and name not in self._config.adapters:
            raise UsageError(f"there is no adapter {name!r}; generator.adapters names them")
        if name:
            model.enable_adapters()
            model.set_adapter(name)
        elif self._config.adapters:
            model.disable_adapters()
