"""Answers of vLLM behind Ray Serve LLM: the text of transformers, adapters, errors, lost replicas."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from pydantic import ValidationError
from ray.exceptions import ActorDiedError
from safetensors.torch import load_file, save_file
from tiny_llava import SIDE, TEMPLATE, byte_tokenizer, tiny_processor
from tokenizers.processors import TemplateProcessing
from transformers import AutoProcessor, LlavaForConditionalGeneration
from tuned_llava import as_on_a_hub, save_base, save_tuned

from benchmarks.processes import below, matching
from pipelines.core.errors import GeneratorUnavailable, UsageError
from pipelines.core.generator import GeneratorConfig, Prompt, Sampling
from pipelines.core.prompts import Turn, messages
from pipelines.core.ray_runtime import ray_runtime
from pipelines.core.types import Usage
from pipelines.serve.config import VllmConfig
from pipelines.serve.handles import RemoteGenerator
from pipelines.serve.vllm import llm_deployment
from pipelines.train.llava_export import export_llava

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None,
    reason="vLLM is not installed: `make install` brings its CPU build on Linux x86-64",
)
MAX_TOKENS = 24
GREEDY = Sampling(MAX_TOKENS)
QUESTION = Prompt((Turn("user", "Is it red?"),), ())


def noise(seed: int) -> bytes:
    """A picture of the model's own size, as this project's are: neither side resizes it."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PROMPTS = (
    Prompt((Turn("user", "Compare <image> with <image> in one word."),), (noise(0), noise(1))),
    Prompt(
        (Turn("user", "这是什么？"), Turn("assistant", "A screw."), Turn("user", "<image>\nAnd this?")),
        (noise(2),),
    ),
)


def write_only_ascii(directory: Path) -> Path:
    """The model never ends, and no answer holds half a character: texts can be compared whole."""
    letters = {number for token, number in byte_tokenizer().get_vocab().items() if len(token) == 1}
    ascii_letters = [n for n in letters if byte_tokenizer().convert_ids_to_tokens(n).isascii()]
    for file in directory.glob("*.safetensors"):
        tensors = load_file(file)
        head = tensors["language_model.lm_head.weight"]
        kept = torch.zeros_like(head)
        kept[ascii_letters] = head[ascii_letters]
        save_file(tensors | {"language_model.lm_head.weight": kept}, file, {"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("served")
    base = write_only_ascii(as_on_a_hub(save_base(folder / "base")))
    save_tuned(base, folder / "tuned", rank=4)
    export_llava(folder / "tuned", folder / "adapter", "adapter")
    return {"base": base, "adapter": folder / "adapter"}


@pytest.fixture(scope="module")
def handle(made: dict[str, Path]) -> Iterator[Any]:
    from ray import serve

    config = GeneratorConfig(
        model=str(made["base"]),
        adapters={"drawings": made["adapter"]},
        max_model_len=512,
        max_pictures=2,
        dtype="float32",
    )
    with ray_runtime(cpus=2):
        try:
            app = llm_deployment(config, VllmConfig(max_ongoing_requests=4), str(made["base"]))
            yield serve.run(app, name="generator", route_prefix=None)
        finally:
            serve.shutdown()


async def pieces(
    generator: RemoteGenerator, prompt: Prompt, sampling: Sampling = GREEDY
) -> list[str | Usage]:
    return [piece async for piece in generator.stream(prompt, sampling)]


@torch.no_grad()
def in_transformers(model: Any, directory: Path, prompt: Prompt) -> tuple[str, Usage]:
    processor = AutoProcessor.from_pretrained(directory)
    text = processor.apply_chat_template(messages(prompt.turns), add_generation_prompt=True)
    pictures = [Image.open(io.BytesIO(png)) for png in prompt.pictures]
    inputs = processor(text=text, images=pictures, return_tensors="pt")
    asked = inputs["input_ids"].shape[1]
    said = model.eval().generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)[0, asked:]
    usage = Usage(asked, len(said), cut=int(said[-1]) != processor.tokenizer.eos_token_id)
    return str(processor.decode(said, skip_special_tokens=True)), usage


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_answers_are_those_of_transformers_and_peft(made: dict[str, Path], handle: Any) -> None:
    generator = RemoteGenerator(handle)

    async def ask() -> list[list[str | Usage]]:
        tuned = Sampling(MAX_TOKENS, adapter="drawings")
        return await asyncio.gather(
            *(pieces(generator, prompt, sampling) for sampling in (GREEDY, tuned) for prompt in PROMPTS)
        )

    said = asyncio.run(ask())
    base = LlavaForConditionalGeneration.from_pretrained(made["base"], dtype=torch.float32)
    untuned = [in_transformers(base, made["base"], prompt) for prompt in PROMPTS]
    peft = PeftModel.from_pretrained(base, made["adapter"])
    tuned = [in_transformers(peft, made["base"], prompt) for prompt in PROMPTS]
    assert ["".join(answer[:-1]) for answer in said] == [text for text, _ in untuned + tuned]
    assert [answer[-1] for answer in said] == [usage for _, usage in untuned + tuned]
    assert len({*untuned, *tuned}) == 4
    assert min(len(answer) for answer in said) > 2


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_wrong_request_is_a_clear_error(handle: Any) -> None:
    generator = RemoteGenerator(handle)
    three = Prompt((Turn("user", "<image> <image> <image> Which?"),), (noise(0), noise(1), noise(2)))
    long = Prompt((Turn("user", "very " * 200),), ())
    for prompt, sampling, words in (
        (QUESTION, Sampling(4, adapter="paintings"), "there is no adapter 'paintings'.* drawings$"),
        (Prompt(QUESTION.turns, (noise(0),)), GREEDY, "0 <image> marks for 1 pictures"),
        (three, GREEDY, "the model cannot take this prompt: .*2"),
        (long, GREEDY, "the model cannot take this prompt: .*512"),
    ):
        with pytest.raises(UsageError, match=words):
            asyncio.run(pieces(generator, prompt, sampling))


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_closing_early_ends_the_work_in_the_engine(handle: Any) -> None:
    async def ask() -> list[int]:
        answer = RemoteGenerator(handle).stream(PROMPTS[0], Sampling(400))
        async with aclosing(answer):
            await anext(answer)
            before = await handle.unfinished.remote()
        for _ in range(20):
            if not (left := await handle.unfinished.remote()):
                break
            await asyncio.sleep(0.01)
        return [before, left]

    assert asyncio.run(ask()) == [1, 0]


@needs_vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("handle")
def test_the_model_runs_in_the_engines_process() -> None:
    [replica] = matching(r"^ray::ServeReplica:.*generator", below(os.getpid()))
    assert len(matching("spawn_main", below(replica.pid))) == 1


@needs_vllm
@pytest.mark.slow
@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.removeprefix("{{ bos_token }}")])
def test_a_prompt_begins_with_one_first_token_whoever_writes_it(template: str) -> None:
    from pipelines.serve.vllm_server import prompt_tokens

    processor = tiny_processor()
    processor.chat_template = template
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokens = prompt_tokens(processor, QUESTION.turns)
    asked = messages(QUESTION.turns)
    assert [tokens] == processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=True)
    assert tokens.count(1) == 1


class LosingHandle:
    """A handle whose replicas write `answers`, one a call, and are lost where one holds an exception."""

    def __init__(self, *answers: Sequence[str | Usage | Exception]) -> None:
        self.answers = list(answers)

    def options(self, **_: Any) -> LosingHandle:
        return self

    def remote(self, *_: Any) -> LosingHandle:
        self.answer = self.answers.pop(0)
        return self

    def cancel(self) -> None:
        pass

    async def __aiter__(self) -> AsyncGenerator[str | Usage]:
        for piece in self.answer:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def heard(handle: LosingHandle, temperature: float = 0.0) -> list[str | Usage]:
    return asyncio.run(pieces(RemoteGenerator(handle), QUESTION, Sampling(9, temperature)))


def test_an_answer_whose_replica_was_lost_goes_on_where_it_stopped() -> None:
    whole = ["It", " is", " red", ".", Usage(20, 4)]
    lost = LosingHandle(["It ", "is r", ActorDiedError()], [ActorDiedError()], whole)
    assert heard(lost) == ["It ", "is r", "ed", ".", Usage(20, 4)]


def test_an_answer_that_begins_otherwise_the_second_time_is_an_error() -> None:
    with pytest.raises(GeneratorUnavailable, match="ask again"):
        heard(LosingHandle(["It is", ActorDiedError()], ["No"], ["No"]))


def test_a_sampled_answer_is_asked_for_again_only_before_its_first_piece() -> None:
    assert heard(LosingHandle([ActorDiedError()], ["No"]), temperature=1) == ["No"]
    with pytest.raises(GeneratorUnavailable):
        heard(LosingHandle(["It", ActorDiedError()], ["It is"]), temperature=1)


def test_replicas_that_are_lost_again_and_again_are_an_error() -> None:
    with pytest.raises(GeneratorUnavailable, match="ActorDiedError"):
        heard(LosingHandle(*[[ActorDiedError()]] * 3))


def test_fewer_replicas_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_replicas 2 > max_replicas 1"):
        VllmConfig(min_replicas=2)
