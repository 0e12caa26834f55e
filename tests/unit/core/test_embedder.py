"""Text embedders: the packaged one in both languages, and one of Sentence Transformers made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.core.embedder import Embedder, EmbedderConfig, load_embedder
from pipelines.core.errors import UsageError


@pytest.fixture(scope="module")
def use() -> Embedder:
    return load_embedder(EmbedderConfig())


def test_use_gives_unit_vectors_of_512_dimensions(use: Embedder) -> None:
    vectors = use.embed_passages(["a red rose", "红色的玫瑰", ""])
    assert vectors.shape == (3, use.space.dim) == (3, 512)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(
    "question", ["How far apart are the screw holes of the cooler?", "散热器的螺丝孔距是多少?"]
)
def test_use_finds_the_answer_in_either_language(use: Embedder, question: str) -> None:
    passages = [
        "The cooler has a hole spacing of 48 mm.",
        "散热器的螺丝孔间距为 48 毫米。",
        "The cat sleeps on the sofa.",
        "今天下午有小雨。",
    ]
    scores = use.embed_passages(passages) @ use.embed_queries([question])[0]
    assert set(np.argsort(-scores)[:2]) == {0, 1}


def test_batching_does_not_change_an_embedding(use: Embedder) -> None:
    texts = ["one", "a text of several words", "三个字"]
    alone = np.concatenate([use.embed_passages([text]) for text in texts])
    np.testing.assert_allclose(use.embed_passages(texts), alone, atol=1e-5)


def test_a_remembered_question_is_not_changed_by_whoever_got_it(use: Embedder) -> None:
    first = use.embed_queries(["a red rose"])
    first[:] = 0
    np.testing.assert_allclose(np.linalg.norm(use.embed_queries(["a red rose"]), axis=1), 1, atol=1e-4)


def test_no_texts_make_no_vectors(use: Embedder) -> None:
    assert use.embed_passages([]).shape == (0, 512)


def test_hub_without_a_model_says_which_setting_to_give() -> None:
    with pytest.raises(UsageError, match=r"embedder\.model"):
        load_embedder(EmbedderConfig(kind="hub"))


def test_a_sentence_transformers_directory_is_loaded_with_its_own_prompts(tmp_path: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import BoW

    words = sentence_transformers.SentenceTransformer(
        modules=[BoW(vocab=["red", "rose", "query"])], prompts={"query": "query ", "document": ""}
    )
    words.save(str(tmp_path / "words"))
    embedder = load_embedder(EmbedderConfig(kind="hub", model=str(tmp_path / "words"), device="cpu"))
    assert embedder.space.dim == 3
    assert embedder.space.model == "hub:words"
    np.testing.assert_allclose(embedder.embed_passages(["red rose"]), [[0.5**0.5, 0.5**0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries(["red"]), [[0.5**0.5, 0, 0.5**0.5]], atol=1e-6)
