"""A BLIP-2 for matching as an aligner: tiny, of random weights, against the model called by hand."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import photograph, picture, png
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    BlipImageProcessor,
    PreTrainedTokenizerFast,
)

from pipelines.core import images
from pipelines.core.aligner import AlignerConfig, Asked, Candidates, load_aligner
from pipelines.core.errors import UsageError
from pipelines.core.previews import preview_path, read_preview, save_preview
from pipelines.core.space import Space

WORDS = ["[PAD]", "[UNK]", "<image>", "a", "red", "blue", "pump"]
SIZE = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
SPACE = Space("pictures", "1", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("blip2")
    vocabulary = {word: place for place, word in enumerate(WORDS)}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="[PAD]", unk_token="[UNK]")
    config = Blip2Config(
        vision_config={**SIZE, "image_size": 28, "patch_size": 14},
        qformer_config={
            **SIZE,
            "vocab_size": len(WORDS),
            "encoder_hidden_size": 32,
            "use_qformer_text_input": True,
        },
        num_query_tokens=4,
        image_text_hidden_size=16,
        image_token_index=2,
    )
    net = Blip2ForImageTextRetrieval(config)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # its own first weights hardly look at the picture
    net.save_pretrained(directory)
    pixels = BlipImageProcessor(size={"height": 28, "width": 28})
    Blip2Processor(pixels, tokenizer, num_query_tokens=4).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def previews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    root = tmp_path_factory.mktemp("previews")
    contents = []
    for data in (picture("red"), picture("blue"), png(photograph(1, 60))):
        contents.append(hashlib.sha256(data).hexdigest())
        save_preview(root, contents[-1], images.decode(data))
    return root, contents


def asked(words: str) -> Asked:
    return Asked(words, np.zeros(4, np.float32), np.zeros(2, np.float32))


def shown(*contents: str) -> Candidates:
    return Candidates(np.zeros((len(contents), 4), np.float32), contents)


def test_it_reads_pictures_and_words_as_the_model_does(model: Path, previews: tuple[Path, list[str]]) -> None:
    root, contents = previews
    config = AlignerConfig(kind="blip2", model=str(model), device="cpu", dtype="float32")
    aligner = load_aligner(config, SPACE, SPACE, root)
    assert aligner is not None
    found = aligner.relevance([asked("a red pump"), asked("blue")], [shown(*contents), shown(contents[1])])
    assert [len(one) for one in found] == [3, 1]
    net, processor = Blip2ForImageTextRetrieval.from_pretrained(model), Blip2Processor.from_pretrained(model)
    for place, content in enumerate(contents):
        preview = read_preview(root, content)
        assert preview is not None
        seen = images.decode(preview.data).image
        inputs = processor(images=seen, text="a red pump", return_tensors="pt")
        logits = net(**inputs, use_image_text_matching_head=True).logits_per_image[0]
        assert found[0][place] == pytest.approx((logits[1] - logits[0]).item(), abs=1e-3)
    assert len({round(float(score), 5) for score in found[0]}) == 3


def test_a_candidate_without_a_preview_comes_last(model: Path, previews: tuple[Path, list[str]]) -> None:
    root, contents = previews
    damaged = preview_path(root, "cd" * 32)
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(b"no picture")
    config = AlignerConfig(kind="blip2", model=str(model), device="cpu", dtype="float32")
    aligner = load_aligner(config, SPACE, SPACE, root)
    assert aligner is not None
    [found] = aligner.relevance([asked("red")], [shown("ab" * 32, "cd" * 32, contents[0])])
    assert found[:2].tolist() == [-np.inf, -np.inf]
    assert np.isfinite(found[2])


def test_what_is_no_blip2_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"search\.aligner\.model .* is no BLIP-2"):
        load_aligner(AlignerConfig(kind="blip2", model=str(tmp_path)), SPACE, SPACE, tmp_path)


def test_one_that_was_not_trained_to_match_is_named(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "captions")
    weights = load_file(tmp_path / "captions" / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("itm_head.")}
    save_file(kept, tmp_path / "captions" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="it lacks itm_head"):
        load_aligner(AlignerConfig(kind="blip2", model=str(tmp_path / "captions")), SPACE, SPACE, tmp_path)
