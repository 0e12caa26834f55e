"""The generator in this process says, in pieces, what transformers generates at once."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_llava import SIDE
from transformers import AutoProcessor, LlavaForConditionalGeneration
from tuned_llava import save_base, save_tuned

from pipelines.core.engine import TransformersEngine
from pipelines.core.errors import UsageError
from pipelines.core.generator import GeneratorConfig, Prompt, Sampling, prompt_text
from pipelines.core.prompts import Turn
from pipelines.core.types import Usage
from pipelines.train.llava_export import export_llava

GREEDY = Sampling(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_base(folder / "base")
    save_tuned(folder / "base", folder / "tuned", rank=8)
    export_llava(folder / "tuned", folder / "adapter", "adapter")
    return folder


@pytest.fixture(scope="module")
def config(folder) -> GeneratorConfig:
    return GeneratorConfig(
        model=str(folder / "base"), adapters={"school": folder / "adapter"}, dtype="float32", device="cpu"
    )


@pytest.fixture(scope="module")
def engine(config) -> TransformersEngine:
    return TransformersEngine(config)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


PROMPT = Prompt((Turn("user", "Is <image> like <image>?"),), (png(0), png(1)))


def whole(engine: TransformersEngine, prompt: Prompt, sampling: Sampling = GREEDY) -> tuple[list[str], Usage]:
    async def collect() -> list[str | Usage]:
        return [piece async for piece in engine.stream(prompt, sampling)]

    *pieces, usage = asyncio.run(collect())
    return pieces, usage


def said(engine: TransformersEngine, prompt: Prompt, sampling: Sampling = GREEDY) -> list[str]:
    return whole(engine, prompt, sampling)[0]


def test_pieces_make_the_greedy_text(engine, folder) -> None:
    processor = AutoProcessor.from_pretrained(folder / "base", backend="pil")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "base", dtype=torch.float32)
    text, _ = prompt_text(processor, PROMPT.turns)
    pictures = [Image.open(io.BytesIO(one)) for one in PROMPT.pictures]
    inputs = processor(text=text, images=pictures, add_special_tokens=False, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    pieces, usage = whole(engine, PROMPT)
    assert "".join(pieces) == processor.tokenizer.decode(tokens, skip_special_tokens=True)
    assert usage == Usage(inputs["input_ids"].shape[1], 12, cut=True)


def test_an_answer_that_ended_by_itself_is_not_cut(folder) -> None:
    """By whatever the model says third, taken for its end."""
    ended = TransformersEngine(GeneratorConfig(model=str(folder / "base"), dtype="float32", device="cpu"))
    model, processor = ended._loaded()
    inputs = processor(
        text=prompt_text(processor, PROMPT.turns)[0],
        add_special_tokens=False,
        images=[Image.open(io.BytesIO(one)) for one in PROMPT.pictures],
        return_tensors="pt",
    )
    tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    model.generation_config.eos_token_id = [int(tokens[2])]
    written = 1 + tokens.tolist().index(tokens[2])
    assert whole(ended, PROMPT)[1] == Usage(inputs["input_ids"].shape[1], written)


def test_an_adapter_changes_the_answer_and_only_where_it_is_asked_for(engine) -> None:
    plain = said(engine, PROMPT)
    assert said(engine, PROMPT, Sampling(12, adapter="school")) != plain
    assert said(engine, PROMPT) == plain


def test_an_unknown_adapter_is_named(engine) -> None:
    with pytest.raises(UsageError, match="no adapter 'home'"):
        said(engine, PROMPT, Sampling(12, adapter="home"))


def test_leaving_ends_the_work(engine) -> None:
    """Counted in passes of the model: random text has few words, so its pieces come late."""
    model, _ = engine._loaded()
    passes: list[int] = []
    watching = model.register_forward_hook(lambda *_: passes.append(1))

    async def leave() -> None:
        asked = asyncio.create_task(anext(engine.stream(PROMPT, Sampling(300))))
        while len(passes) < 5:
            await asyncio.sleep(0.001)
        asked.cancel()
        await asyncio.wait([asked])

    asyncio.run(leave())
    left_after = len(passes)
    passes.clear()
    said(engine, PROMPT, Sampling(300))
    watching.remove()
    assert left_after < len(passes)


def test_event_loops_of_several_threads_take_turns(engine) -> None:
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(said, engine, PROMPT) for _ in range(3)]
    assert {"".join(one.result()) for one in asked} == {"".join(said(engine, PROMPT))}


def test_leaving_the_queue_does_not_wait_for_the_answer_at_hand(engine) -> None:
    model, _ = engine._loaded()
    passes: list[int] = []
    watching = model.register_forward_hook(lambda *_: passes.append(1))

    async def leave() -> int:
        async def read(stream: AsyncGenerator[str | Usage]) -> None:
            async for _ in stream:
                pass

        first = asyncio.create_task(read(engine.stream(PROMPT, Sampling(300))))
        while len(passes) < 5:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(read(engine.stream(PROMPT, GREEDY)))
        await asyncio.sleep(0)  # it has asked for its turn
        second.cancel()
        await asyncio.wait([second])
        left_after = len(passes)
        await first
        return left_after

    left_after = asyncio.run(leave())
    watching.remove()
    assert left_after < len(passes)


def test_what_is_no_model_is_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"generator\.model"):
        TransformersEngine(GeneratorConfig(model=str(tmp_path))).load()
