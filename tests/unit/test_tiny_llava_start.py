"""The first weights of tiny-llava copy what they are shown; the last ones can be taught any word."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from benchmarks.tiny_llava.model import SPECIAL, train_tokenizer, untrained
from benchmarks.tiny_llava.unwritten import HEAD, LENGTH, spread, unwritten
from pipelines.core.generator import TINY_LLAVA
from pipelines.train.llava_batch import load_processor


def test_an_untrained_model_says_again_what_was_said_before() -> None:
    model = untrained(train_tokenizer(iter(["The power of the pump is 265 W", "水泵的功率是265 W"])))
    words = len(model.get_input_embeddings().weight)
    said = torch.randint(len(SPECIAL), words, (4, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(input_ids=torch.cat([said, said], dim=1)).logits
    again = logits[:, 101:-1].argmax(-1) == said[:, 2:]
    assert again.float().mean() > 0.9
    first = logits[:, :99].argmax(-1) == said[:, 1:]
    assert first.float().mean() < 0.1


def test_a_word_has_the_same_tokens_wherever_it_stands() -> None:
    tokenizer = train_tokenizer(iter(["水泵的功率是多少？", "功率为265 W", "请问功率"] * 9))
    asked, told = (set(tokenizer.tokenize(text)) for text in ("水泵的功率是多少？", "功率为265 W"))
    assert set(tokenizer.tokenize("功率")) <= asked & told


def test_every_token_of_the_packaged_model_has_a_direction_of_its_own() -> None:
    """Else adapters could not teach an answer with tokens that no answer of the training had."""
    rows_VD = load_file(TINY_LLAVA / "model.safetensors")[HEAD].float()
    rows_VD = rows_VD[len(SPECIAL) :]
    apart = torch.cdist(rows_VD, rows_VD).fill_diagonal_(torch.inf)
    assert apart.min() > LENGTH / 2  # .31 before `unwritten`, half of all within .35


def test_spreading_changes_only_the_rows_it_is_told() -> None:
    rows_VD = torch.ones(5, 64, dtype=torch.bfloat16)
    spread_VD = spread(rows_VD, [1, 3])
    assert spread_VD.dtype == rows_VD.dtype
    assert torch.equal(spread_VD[[0, 2, 4]], rows_VD[[0, 2, 4]])
    moved = (spread_VD[[1, 3]].float() - 1).norm(dim=1)
    torch.testing.assert_close(moved, torch.full((2,), LENGTH), atol=0.02, rtol=0)
    assert torch.equal(spread(rows_VD, [1, 3]), spread_VD)


def test_tokens_of_no_answer_are_found(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    said = [{"from": "human", "value": "Is it a pump?"}, {"from": "gpt", "value": "yes"}]
    data.write_text(json.dumps({"id": "1", "conversations": said}) + "\n", "utf-8")
    tokenizer = load_processor(TINY_LLAVA).tokenizer
    found = set(unwritten(data, TINY_LLAVA))
    yes = set(tokenizer("yes", add_special_tokens=False)["input_ids"])
    assert not found & (yes | set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder))
    assert len(found | yes | set(tokenizer.added_tokens_decoder)) == len(tokenizer)
