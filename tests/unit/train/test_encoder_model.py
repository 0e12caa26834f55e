from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pipelines.core.lite import Heads
from pipelines.core.sentences import DIM as TEXT_DIM
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.encoder_model import JointHeads, contrastive_loss, same_text

NONE = torch.zeros(2, 2, dtype=torch.bool)


def test_the_loss_of_two_orthogonal_pairs_by_hand() -> None:
    # Logits are 2 on the diagonal and 0 beside it: -log(e^2 / (e^2 + 1)) in both directions.
    loss = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(2.0), NONE)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_the_loss_is_least_when_pairs_agree() -> None:
    right = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(2.0), NONE)
    wrong = contrastive_loss(torch.eye(2), torch.eye(2).flip(0), torch.tensor(2.0), NONE)
    assert wrong.item() == pytest.approx(right.item() + 2)


def test_a_pair_to_ignore_is_no_negative() -> None:
    everything = ~torch.eye(2, dtype=torch.bool)
    loss = contrastive_loss(torch.eye(2), torch.eye(2).flip(0), torch.tensor(2.0), everything)
    assert loss.item() == pytest.approx(0)


def test_equal_texts_of_other_concepts_are_ignored_and_a_pair_itself_never() -> None:
    ignored = same_text(torch.tensor([7, 7, 3]), torch.tensor([7, 3, 3]))
    assert ignored.tolist() == [[False, False, False], [True, False, False], [False, True, False]]


@pytest.mark.parametrize("hidden", [0, 16])
def test_exported_heads_say_in_numpy_what_torch_says(hidden: int) -> None:
    torch.manual_seed(0)
    config = EncoderTraining(dim=24, hidden=hidden)
    rng = np.random.default_rng(0)
    classes = rng.normal(size=(1000, TEXT_DIM)).astype(np.float32)
    trained = JointHeads(config, torch.rand(40), torch.rand(40), classes).eval()
    heads = Heads({name: tensor.astype(np.float32) for name, tensor in trained.export().items()})
    features = rng.random((5, 40), dtype=np.float32)
    probabilities = rng.dirichlet(np.ones(1000), size=5).astype(np.float32)
    sentences = rng.normal(size=(5, TEXT_DIM)).astype(np.float32) / math.sqrt(TEXT_DIM)
    with torch.no_grad():
        pictures = trained.embed_images(
            torch.from_numpy(features), torch.from_numpy(probabilities @ classes)
        ).numpy()
        texts = trained.embed_texts(torch.from_numpy(sentences)).numpy()
    # Weights are stored in half precision.
    assert (heads.image(features, probabilities) * pictures).sum(axis=1).min() > 0.9999
    assert (heads.text(sentences) * texts).sum(axis=1).min() > 0.9999
