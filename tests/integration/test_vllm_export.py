"""What was exported answers in vLLM token for token as in transformers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from tiny_llava import SIDE
from transformers import AutoProcessor, LlavaForConditionalGeneration
from tuned_llava import as_on_a_hub, save_base, save_tuned

from pipelines.core.prompts import Turn, messages
from pipelines.train.llava_export import export_llava

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: `make install` brings its CPU build on Linux x86-64",
    ),
]

QUESTIONS = ("<image> What is this?", "<image> 这是什么？", "Is it red? <image> Or blue?")
MAX_TOKENS = 12
SCRIPT = Path(__file__).parents[1] / "greedy_vllm.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories: a base model, one tuned through and through and merged, and an adapter for the base."""
    folder = tmp_path_factory.mktemp("exported")
    base = as_on_a_hub(save_base(folder / "base"))
    save_tuned(base, folder / "whole", rank=8, train_projector=True, vision_layers=1)
    save_tuned(base, folder / "language", rank=8)
    export_llava(folder / "whole", folder / "merged", "merged")
    export_llava(folder / "language", folder / "adapter", "adapter")
    return {name: folder / name for name in ("base", "merged", "adapter")}


@pytest.fixture(scope="module")
def requests(made: dict[str, Path]) -> list[tuple[str, Path]]:
    processor = AutoProcessor.from_pretrained(made["base"])
    found = []
    for number, question in enumerate(QUESTIONS):
        # The picture has the model's own size, as those of this project do: neither side resizes it.
        pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        file = made["base"].parent / f"{number}.png"
        Image.fromarray(pixels).save(file)
        turns = messages([Turn("user", question)])
        found.append((processor.apply_chat_template(turns, add_generation_prompt=True), file))
    return found


@pytest.fixture(scope="module")
def in_vllm(made: dict[str, Path], requests: list[tuple[str, Path]]) -> dict[str, list[list[int]]]:
    """Both runs in one process: most of the time goes into starting it."""
    job = {
        "requests": [(prompt, str(file)) for prompt, file in requests],
        "max_tokens": MAX_TOKENS,
        "runs": {
            "merged": {"model": str(made["merged"])},
            "adapter": {"model": str(made["base"]), "adapter": str(made["adapter"])},
        },
    }
    file = made["base"].parent / "job.json"
    file.write_text(json.dumps(job), "utf-8")
    done = subprocess.run([sys.executable, SCRIPT, file], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return cast("dict[str, list[list[int]]]", json.loads(done.stdout))


@torch.no_grad()
def in_transformers(model: Any, directory: Path, requests: list[tuple[str, Path]]) -> list[list[int]]:
    processor = AutoProcessor.from_pretrained(directory)
    found = []
    for prompt, file in requests:
        inputs = processor(text=prompt, images=Image.open(file), return_tensors="pt")
        tokens = model.eval().generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        found.append(tokens[0, inputs["input_ids"].shape[1] :].tolist())
    return found


def test_the_merged_export_answers_in_vllm_as_in_transformers(
    made: dict[str, Path], requests: list[tuple[str, Path]], in_vllm: dict[str, list[list[int]]]
) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(made["merged"], dtype=torch.float32)
    expected = in_transformers(model, made["merged"], requests)
    assert in_vllm["merged"] == expected
    assert len({tuple(tokens) for tokens in expected}) == len(QUESTIONS)


def test_the_adapter_answers_in_vllm_as_in_peft(
    made: dict[str, Path], requests: list[tuple[str, Path]], in_vllm: dict[str, list[list[int]]]
) -> None:
    base = LlavaForConditionalGeneration.from_pretrained(made["base"], dtype=torch.float32)
    untuned = in_transformers(base, made["base"], requests)
    expected = in_transformers(PeftModel.from_pretrained(base, made["adapter"]), made["base"], requests)
    assert in_vllm["adapter"] == expected
    assert untuned != expected
