"""The replica of Ray Serve LLM that writes answers: vLLM's engine, asked for a Prompt directly.

Its chat endpoint would cost base64, JSON events and a 50 ms clock for each answer, and adds no first token to
a template that leaves that to the tokenizer: these tokens are the processor's own, as in training. Importing
this module imports vLLM; knows nothing of evidence or HTTP.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
from collections.abc import AsyncGenerator, Sequence
from typing import Any
from uuid import uuid4

from PIL import Image
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from transformers import AutoProcessor
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from pipelines.core.errors import UsageError
from pipelines.core.generator import Prompt, Sampling, prompt_text
from pipelines.core.prompts import IMAGE_TOKEN, Turn
from pipelines.core.types import Usage
from pipelines.serve.logs import join_serve, timed

logger = logging.getLogger(__name__)


class LocalModel(CallbackBase):
    """For a model in a directory: no task on each node that would import vLLM to fetch nothing."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class OneProcessEngine(VLLMEngine):
    """vLLM's engine that, on a CPU, computes in the process that schedules.

    Ray Serve LLM and vLLM give one CPU a worker process of its own, to bind its threads to cores. Each of the
    two then spins while the other works, which takes half of the CPU of a short answer. It is left so where
    threads are bound, there are several workers, or `engine_kwargs.distributed_executor_backend` is set.
    """

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        found = super()._prepare_engine_config(callback_ctx)
        parallel = found[-1].parallel_config
        is_chosen = "distributed_executor_backend" in self.llm_config.engine_kwargs
        is_bound = os.environ.get("VLLM_CPU_OMP_THREADS_BIND") != "nobind"
        if current_platform.is_cpu() and parallel.world_size == 1 and not is_chosen and not is_bound:
            parallel.distributed_executor_backend = "uni"
        return found


class AnswerServer(LLMServer):
    """LLMServer with two more methods."""

    _default_engine_cls = OneProcessEngine  # type: ignore[assignment]

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, llm_config: LLMConfig, model_dir: str, revision: str | None, log_level: str
    ) -> None:
        join_serve(log_level)
        await super().__init__(llm_config)
        self._processor: Any = AutoProcessor.from_pretrained(model_dir, revision=revision)

    async def say(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        """The answer in pieces, and what it took. Cancelling it ends the request in the engine. Raises
        UsageError for a prompt that does not fit the model, and for an unknown adapter."""
        adapter = self._adapter(sampling.adapter)
        asked = await asyncio.to_thread(self._engine_prompt, prompt)
        how = SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            output_kind=RequestOutputKind.DELTA,
        )
        outputs = self._running._engine_client.generate(asked, how, uuid4().hex, lora_request=adapter)
        written = 0
        try:
            with timed(logger, "generate"):
                async for output in outputs:
                    piece = output.outputs[0]
                    written += len(piece.token_ids)
                    if piece.text:
                        yield piece.text
                    if output.finished:
                        yield Usage(len(output.prompt_token_ids), written, piece.finish_reason == "length")
        except VLLMClientError as exc:
            raise UsageError(f"the model cannot take this prompt: {exc}") from exc
        except EngineDeadError:
            # A dead engine refuses at once, and so looks like the least busy replica: it must not stay.
            logger.exception("the engine died; this replica ends, to be replaced")
            os._exit(1)
        finally:
            await outputs.aclose()

    async def unfinished(self) -> int:
        """How many answers the engine is writing or has waiting."""
        return int(self._running._engine_client.get_num_unfinished_requests())

    async def _start_engine(self) -> None:
        """Without Ray's report of which models are served: it keeps a process of 0.4 GB for it."""
        await self._running.start()

    @property
    def _running(self) -> Any:
        assert self.engine is not None
        return self.engine

    def _adapter(self, name: str) -> Any:
        loaded = self._running._oai_models.lora_requests
        if name and name not in loaded:
            known = ", ".join(sorted(loaded)) or "none"
            raise UsageError(f"there is no adapter {name!r}; generator.adapters has: {known}")
        return loaded[name] if name else None

    def _engine_prompt(self, prompt: Prompt) -> dict[str, Any]:
        marks = sum(turn.text.count(IMAGE_TOKEN) for turn in prompt.turns)
        if marks != len(prompt.pictures):
            raise UsageError(f"{marks} {IMAGE_TOKEN} marks for {len(prompt.pictures)} pictures")
        asked = {"prompt_token_ids": prompt_tokens(self._processor, prompt.turns)}
        if not prompt.pictures:
            return asked
        pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in prompt.pictures]
        return asked | {"multi_modal_data": {"image": pictures}}


def prompt_tokens(processor: Any, turns: Sequence[Turn]) -> list[int]:
    """The conversation up to the answer, a picture as one token."""
    text, wants_first = prompt_text(processor, turns)
    return list(processor.tokenizer(text, add_special_tokens=wants_first)["input_ids"])
