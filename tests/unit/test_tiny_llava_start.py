"""The first weights of tiny-llava copy what they are shown, as `copying.py` beside them promises."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.tiny_llava.model import SPECIAL, train_tokenizer, untrained


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
