"""The aligner by itself: its formula worked by hand, its files, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipelines.core.aligner import (
    PACKAGED,
    TINY_ALIGNER,
    AlignerConfig,
    AlignerDescription,
    Asked,
    Candidates,
    MemoryAligner,
    load_aligner,
    top,
)
from pipelines.core.embedder import EmbedderConfig, load_embedder
from pipelines.core.encoder import EncoderConfig, load_encoder
from pipelines.core.errors import SpaceMismatch, UsageError
from pipelines.core.space import Space

SPACE, TEXT_SPACE = Space("pictures", "1", 4), Space("texts", "1", 2)


def described(kind: str = "memory") -> AlignerDescription:
    return AlignerDescription(
        kind=kind, scales=2, dim=2, text_dim=2, hidden=16, heads=2,
        space=SPACE.fingerprint, text_space=TEXT_SPACE.fingerprint,
    )  # fmt: skip


def memory() -> dict[str, np.ndarray]:
    return {
        "memory.texts": np.eye(2, dtype=np.float32),
        "memory.pictures": np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32),
        "memory.counts": np.array([1, 3], np.float32),
        "weights": np.array([2, 5, 7], np.float32),  # sharpness, on the question, on memory
    }


def asked(visual: list[float], text: list[float]) -> Asked:
    return Asked("?", np.array(visual, np.float32), np.array(text, np.float32))


def test_relevance_is_the_question_and_what_memory_gives_for_it() -> None:
    aligner = MemoryAligner(described(), memory())
    candidates = np.eye(4, dtype=np.float32)
    [found] = aligner.relevance([asked([0.5, 0, 0.5, 0], [1, 0])], [Candidates(candidates)])
    first, second = np.exp(2.0 * 1), 3 * np.exp(2.0 * 0)  # three pictures bear the second text
    weights = np.array([first, second]) / (first + second)
    np.testing.assert_allclose(
        found, [5 * 0.5 + 7 * weights[0], 7 * weights[1], 5 * 0.5, 0], rtol=1e-6, atol=1e-6
    )
    assert top(found, 2).tolist() == [0, 2]
    assert top(np.array([1, 2, 2, 0], np.float32), 3).tolist() == [1, 2, 0]


def test_questions_of_one_call_do_not_meet() -> None:
    aligner = MemoryAligner(described(), memory())
    rng = np.random.default_rng(0)
    questions = [asked(list(rng.normal(size=4)), list(rng.normal(size=2))) for _ in range(3)]
    candidates = [rng.normal(size=(count, 4)).astype(np.float32) for count in (1, 5, 0)]
    together = aligner.relevance(questions, list(map(Candidates, candidates)))
    for question, vectors, scores in zip(questions, candidates, together, strict=True):
        [alone] = aligner.relevance([question], [Candidates(vectors)])
        np.testing.assert_allclose(scores, alone, rtol=1e-5)
        assert len(scores) == len(vectors)
    assert aligner.relevance([], []) == []


@pytest.mark.parametrize("kind", ["mlp", "qformer"])
def test_a_network_adds_to_memory_and_does_not_see_other_questions(kind: str) -> None:
    import torch

    from pipelines.core.aligner_network import PREFIX, residual

    torch.manual_seed(0)
    network = residual(described(kind))
    assert network is not None
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {PREFIX + name: p.detach().numpy() for name, p in network.named_parameters()}
    plain, aligner = MemoryAligner(described(), memory()), MemoryAligner(described(kind), memory() | weights)
    rng = np.random.default_rng(0)
    questions = [asked(list(rng.normal(size=4)), list(rng.normal(size=2))) for _ in range(2)]
    candidates = [rng.normal(size=(count, 4)).astype(np.float32) for count in (2, 5)]
    together = aligner.relevance(questions, list(map(Candidates, candidates)))
    for question, vectors, scores in zip(questions, candidates, together, strict=True):
        [alone] = aligner.relevance([question], [Candidates(vectors)])
        np.testing.assert_allclose(scores, alone, rtol=1e-4, atol=1e-5)
        assert np.abs(scores - plain.relevance([question], [Candidates(vectors)])[0]).max() > 0.01


def test_vectors_of_another_shape_are_refused() -> None:
    aligner = MemoryAligner(described(), memory())
    with pytest.raises(UsageError, match=r"\(4, 2\) numbers, not"):
        aligner.relevance([asked([1, 0, 0], [1, 0])], [Candidates(np.ones((2, 3), np.float32))])


def test_another_space_is_refused(tmp_path: Path) -> None:
    save_file(memory(), tmp_path / "aligner.safetensors")
    (tmp_path / "aligner.json").write_text(described().model_dump_json())
    config = AlignerConfig(model=str(tmp_path))
    assert load_aligner(config, SPACE, TEXT_SPACE) is not None
    with pytest.raises(SpaceMismatch, match="another visual space"):
        load_aligner(config, Space("pictures", "2", 4), TEXT_SPACE)
    with pytest.raises(SpaceMismatch, match=r"another text space.*mmrag train aligner"):
        load_aligner(config, SPACE, Space("texts", "2", 2))
    assert load_aligner(AlignerConfig(), SPACE, TEXT_SPACE) is None


@pytest.mark.parametrize(
    "damage", ["none there", "no weights", "half a file", "another kind", "a tensor less"]
)
def test_what_is_no_aligner_is_named(tmp_path: Path, damage: str) -> None:
    tensors = memory()
    if damage == "a tensor less":
        del tensors["memory.counts"]
    if damage == "other shapes":
        tensors["memory.texts"] = np.eye(3, dtype=np.float32)
    if damage == "nan":
        tensors["memory.pictures"][0, 0] = np.nan
    if damage == "nothing":
        tensors |= {name: tensors[name][:0] for name in tensors if name.startswith("memory.")}
    description = json.loads(described("mlp" if damage == "no network" else "memory").model_dump_json())
    if damage == "another kind":
        description["kind"] = "oracle"
    if damage != "none there":
        (tmp_path / "aligner.json").write_text(json.dumps(description))
    if damage not in ("none there", "no weights"):
        save_file(tensors, tmp_path / "aligner.safetensors")
    if damage == "half a file":
        whole = (tmp_path / "aligner.safetensors").read_bytes()
        (tmp_path / "aligner.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="holds no aligner"):
        MemoryAligner.load(tmp_path)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        AlignerDescription.model_validate(described().model_dump() | {"hidden": 10, "heads": 4})


def test_the_packaged_one_reads_the_packaged_spaces() -> None:
    encoder, embedder = load_encoder(EncoderConfig()), load_embedder(EmbedderConfig())
    aligner = load_aligner(AlignerConfig(model=TINY_ALIGNER), encoder.space, embedder.space)
    assert aligner is not None
    vectors = encoder.encode_texts(["a red apple", "a train", "an umbrella"])
    question = Asked(
        "red apple", encoder.encode_texts(["red apple"])[0], embedder.embed_queries(["red apple"])[0]
    )
    [found] = aligner.relevance([question], [Candidates(vectors)])
    assert top(found, 1).tolist() == [0]
    assert sum(file.stat().st_size for file in PACKAGED.iterdir()) < 15e6
