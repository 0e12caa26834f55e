"""Greedy tokens of vLLM, in a process of its own: it ends with the engine's threads and memory.

    python greedy_vllm.py JOB.json    # prints one JSON object: name -> a list of token ids for each request

JOB: {"requests": [[prompt, picture file]], "max_tokens": N, "runs": {name: {"model": DIR, "adapter": DIR?}}}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def greedy(
    requests: list[list[str]], max_tokens: int, model: str, adapter: str | None = None
) -> list[list[int]]:
    from PIL import Image
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    lora: dict[str, Any] = {"enable_lora": True, "max_lora_rank": 8, "max_loras": 1} if adapter else {}
    engine = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 1},
        seed=0,
        **lora,
    )
    answers = engine.generate(
        [{"prompt": text, "multi_modal_data": {"image": Image.open(file)}} for text, file in requests],
        SamplingParams(temperature=0, max_tokens=max_tokens),
        lora_request=LoRARequest("tuned", 1, adapter) if adapter else None,
        use_tqdm=False,
    )
    return [list(answer.outputs[0].token_ids) for answer in answers]


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    # vLLM prints on stdout too: the result goes to a copy of it, everything else to stderr.
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    runs = {name: greedy(job["requests"], job["max_tokens"], **run) for name, run in job["runs"].items()}
    print(json.dumps(runs), file=result, flush=True)
