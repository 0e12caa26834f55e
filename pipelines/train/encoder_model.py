"""The trainable heads of the `lite` encoder and their loss. Knows nothing of files, loops or Ray.

The forward passes are those of `pipelines.core.lite.Heads`, which applies the exported weights in numpy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipelines.core.lite import PACKAGED
from pipelines.core.sentences import DIM as TEXT_DIM
from pipelines.train.encoder_config import EncoderTraining

CLASS_NAMES = PACKAGED / "imagenet_classes.txt"
"""The WordNet lemmas of the 1,000 ImageNet classes, in the order of the trunk's classifier."""

MAX_LOGIT_SCALE = 100.0
_FIRST_LOGIT_SCALE = 20.0
# Starting points: the class term speaks first, since it already lives in the text tower's space.
_TEXT_GAIN, _CLASS_GAIN, _IMAGE_GAIN = 0.1, 3.0, 0.3
# A channel that hardly varies in the training pictures must not be blown up in others.
_STD_FLOOR = 0.05


@dataclass(frozen=True, slots=True)
class Batch:
    """Two pictures and two texts of each of B concepts. `text_ids` tell equal texts of different concepts."""

    features: tuple[Tensor, Tensor]
    class_vectors: tuple[Tensor, Tensor]
    sentences: tuple[Tensor, Tensor]
    text_ids: tuple[Tensor, Tensor]


class Projection(nn.Module):
    """A x + B gelu(C x), with dropout on x and on the hidden units."""

    def __init__(self, inputs: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, dim)
        self.hidden = nn.Linear(inputs, hidden) if hidden else None
        self.out = nn.Linear(hidden, dim, bias=False) if hidden else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(x)
        y: Tensor = self.linear(x)
        if self.hidden is not None and self.out is not None:
            y = y + self.out(self.dropout(functional.gelu(self.hidden(x), approximate="tanh")))
        return y


class JointHeads(nn.Module):
    """`forward` is the loss of a batch, so that a data-parallel wrapper sees every parameter used.

    A picture's class vector is its ImageNet probabilities times `class_sentences` (1000, 512): fixed
    while the heads are trained, so it is made once.
    """

    mean: Tensor
    std: Tensor
    classes: Tensor

    def __init__(
        self, config: EncoderTraining, mean: Tensor, std: Tensor, class_sentences: NDArray[np.float32]
    ) -> None:
        super().__init__()
        self.config = config
        self.image_head = Projection(len(mean), config.hidden, config.dim, config.image_dropout)
        self.text_head = Projection(TEXT_DIM, config.hidden, config.dim, config.text_dropout)
        self.class_head = nn.Linear(TEXT_DIM, config.dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(_FIRST_LOGIT_SCALE)))
        self.register_buffer("classes", torch.from_numpy(class_sentences))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std + _STD_FLOOR)
        shared = nn.init.orthogonal_(torch.empty(config.dim, TEXT_DIM))
        with torch.no_grad():
            self.text_head.linear.weight.copy_(shared * _TEXT_GAIN)
            self.text_head.linear.bias.zero_()
            self.class_head.weight.copy_(shared * _CLASS_GAIN)
            self.image_head.linear.weight.mul_(_IMAGE_GAIN)

    def embed_images(self, features: Tensor, class_vectors: Tensor) -> Tensor:
        standardised = (features - self.mean) / self.std
        return functional.normalize(self.image_head(standardised) + self.class_head(class_vectors), dim=1)

    def embed_texts(self, sentences: Tensor) -> Tensor:
        return functional.normalize(self.text_head(sentences * math.sqrt(TEXT_DIM)), dim=1)

    def forward(self, batch: Batch) -> Tensor:
        pictures = [
            self.embed_images(*pair) for pair in zip(batch.features, batch.class_vectors, strict=True)
        ]
        texts = [self.embed_texts(sentences) for sentences in batch.sentences]
        scale = self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        first, second = batch.text_ids
        loss = contrastive_loss(pictures[0], texts[0], scale, same_text(first, first))
        loss = loss + contrastive_loss(pictures[1], texts[1], scale, same_text(second, second))
        across = same_text(first, second)
        loss = loss + self.config.text_to_text * contrastive_loss(texts[0], texts[1], scale, across)
        return loss + self.config.image_to_image * contrastive_loss(pictures[0], pictures[1], scale, across)

    @torch.no_grad()
    def export(self) -> dict[str, NDArray[np.float16]]:
        """The tensors that `pipelines.core.lite.Heads` reads."""
        tensors = {
            "image.mean": self.mean,
            "image.std": self.std,
            "image.classes": self.class_head(self.classes),
        }
        for side, head in (("image", self.image_head), ("text", self.text_head)):
            tensors |= {f"{side}.{name}": weight for name, weight in head.state_dict().items()}
        return {name: tensor.detach().cpu().numpy().astype(np.float16) for name, tensor in tensors.items()}


def same_text(first: Tensor, second: Tensor) -> Tensor:
    """(B, B) of bool: pairs of different concepts that bear the same text, which are no negatives."""
    same = first[:, None] == second[None, :]
    return same & ~torch.eye(len(first), dtype=torch.bool, device=first.device)


def contrastive_loss(rows: Tensor, columns: Tensor, scale: Tensor, ignore: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al., arXiv 2103.00020) of unit vectors (B, D); row i belongs to column i.

    `ignore` (B, B) marks pairs that are neither positive nor negative.
    """
    logits = (rows @ columns.T * scale).masked_fill(ignore, -torch.inf)
    diagonal = torch.arange(len(rows), device=rows.device)
    return (functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits.T, diagonal)) / 2
