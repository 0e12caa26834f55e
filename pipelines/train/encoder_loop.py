"""The training loop of the `lite` encoder's heads: a table of features in, weights and figures out.

Knows nothing of pictures or Ray; a worker of a data-parallel job passes its rank and its wrapper.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn

from pipelines.core.lazy import Lazy
from pipelines.core.lite import CONFIG_FILE, HEADS_FILE, LiteConfig, class_probabilities
from pipelines.core.lite_trunk import Trunk
from pipelines.core.sentences import sentence_vectors
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.encoder_data import Table
from pipelines.train.encoder_model import CLASS_NAMES, Batch, JointHeads

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Indices = NDArray[np.int64]

SUMMARY_FILE = "training.json"
_WARM_UP_STEPS = 50
_CHUNK = 2048


class Towers:
    """The two pretrained towers, frozen. The image trunk is loaded when it is first needed."""

    def __init__(self, trunk: Callable[[], Trunk]) -> None:
        self._trunk = Lazy(trunk)
        self._known: dict[str, Array] = {}

    def pooled(self, pixels_NHWC: Pixels) -> Array:
        return self._trunk().pooled(pixels_NHWC)

    def probabilities(self, features: Array) -> Array:
        """(N, 1000) ImageNet probabilities of pooled features."""
        return class_probabilities(features, self._trunk())

    def class_sentences(self) -> Array:
        """(1000, 512): the mean sentence embedding of each ImageNet class's names, unit and then centred."""
        classes = [line.split(", ") for line in CLASS_NAMES.read_text("utf-8").splitlines()]
        encoded = self.encode([name for names in classes for name in names])
        ends = np.cumsum([len(names) for names in classes])[:-1]
        means = np.stack([group.mean(0) for group in np.split(encoded, ends)])
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        centred: Array = unit - unit.mean(0)
        return centred

    def encode(self, texts: Sequence[str]) -> Array:
        """(N, 512) unit rows. Each text is encoded once: the folds of a benchmark share most of theirs."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            self._known.update(zip(new, sentence_vectors(new), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass(frozen=True, slots=True)
class Worker:
    """This process's place among the workers of a data-parallel job."""

    rank: int = 0
    device: str = "cpu"
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module


class Groups:
    """Lists of numbers, one list a concept, from which one number each is drawn at once."""

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self._flat = np.array([number for group in lists for number in group] or [0])
        self.sizes = np.array([len(group) for group in lists])
        self._starts = np.cumsum(self.sizes) - self.sizes

    def draw(self, concepts: Indices, rng: np.random.Generator) -> Indices:
        """A number of each concept's list; of an empty one, a number that means nothing."""
        offsets = (rng.random(len(concepts)) * self.sizes[concepts]).astype(np.int64)
        drawn: Indices = self._flat[np.minimum(self._starts[concepts] + offsets, len(self._flat) - 1)]
        return drawn


class Sampler:
    """Draws batches of different concepts, each with two pictures and two texts."""

    def __init__(self, table: Table, config: EncoderTraining, towers: Towers) -> None:
        self._config = config
        self._features = table.features
        self._class_vectors = _class_vectors(towers, table.features)
        of_concept: dict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(table.rows):
            of_concept[row.concept].append(number)
        groups = [[table.rows[number] for number in numbers] for numbers in of_concept.values()]
        weights = np.array([max(row.weight for row in rows) for rows in groups])
        self._weights = weights / weights.sum()
        words = sorted({text for row in table.rows for text in row.words})
        index = {word: number for number, word in enumerate(words)}
        self._sentences = towers.encode(words)
        self._pictures = Groups(list(of_concept.values()))
        self._names = Groups([sorted({index[text] for row in rows for text in row.texts}) for rows in groups])
        self._tags = Groups([sorted({index[text] for row in rows for text in row.tags}) for rows in groups])

    def draw(self, rng: np.random.Generator) -> Batch:
        size = min(self._config.concepts_per_step, len(self._weights))
        concepts = rng.choice(len(self._weights), size, replace=False, p=self._weights)
        views = [self._draw_views(concepts, rng) for _ in range(2)]
        texts = [self._draw_texts(concepts, rng) for _ in range(2)]
        return Batch(
            features=_pair(self._features[view].astype(np.float32) for view in views),
            class_vectors=_pair(self._class_vectors[view].astype(np.float32) for view in views),
            sentences=_pair(self._sentences[text] for text in texts),
            text_ids=_pair(texts),
        )

    def _draw_views(self, concepts: Indices, rng: np.random.Generator) -> tuple[Indices, ...]:
        _, views, scales, _ = self._features.shape
        size = len(concepts)
        return (
            self._pictures.draw(concepts, rng),
            rng.integers(views, size=size),
            rng.integers(scales, size=size),
        )

    def _draw_texts(self, concepts: Indices, rng: np.random.Generator) -> Indices:
        by_tag = rng.random(len(concepts)) < self._config.tag_probability
        by_tag &= self._tags.sizes[concepts] > 0
        return np.where(by_tag, self._tags.draw(concepts, rng), self._names.draw(concepts, rng))


def fit(
    table: Table,
    config: EncoderTraining,
    towers: Towers,
    worker: Worker | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> JointHeads:
    """Train the heads on the table's "train" rows. The same seed gives the same weights on one machine.

    `on_step(step, loss)` is called after each step, which count from 1.
    """
    worker = worker or Worker()
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, worker.rank])
    trained_on = table.only("train")
    sampler = Sampler(trained_on, config, towers)
    mean, std = _moments(trained_on.features[:, 0])
    heads = JointHeads(config, mean, std, towers.class_sentences()).to(worker.device)
    module = worker.wrap(heads)
    matrices = [parameter for parameter in heads.parameters() if parameter.ndim]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": [heads.logit_scale], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    module.train()
    for step in range(1, config.steps + 1):
        loss = module(_to(sampler.draw(rng), worker.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    return heads.eval()


@torch.no_grad()
def held_out_figures(heads: JointHeads, table: Table, towers: Towers) -> dict[str, float]:
    """Text→image R@1 and R@10 among the held-out concepts' first pictures; queries are all their `texts`.

    Chinese queries (any Han character) and others are told apart. Empty without held-out rows.
    """
    table = table.only("held-out")
    if not table.rows:
        return {}
    heads = heads.cpu().eval()
    first: dict[str, int] = {}
    for number, row in enumerate(table.rows):
        first.setdefault(row.concept, number)
    numbers = list(first.values())
    scales = table.features.shape[2]
    features = table.features[numbers, 0]
    class_vectors = torch.from_numpy(_class_vectors(towers, features)).float()
    inputs = torch.from_numpy(features).float()
    pictures = [heads.embed_images(inputs[:, scale], class_vectors[:, scale]) for scale in range(scales)]
    candidates = torch.cat(pictures, dim=1) / math.sqrt(scales)
    queries = [(text, place) for place, number in enumerate(numbers) for text in table.rows[number].texts]
    texts = heads.embed_texts(torch.from_numpy(towers.encode([text for text, _ in queries])))
    scores = (texts.repeat(1, scales) / math.sqrt(scales)) @ candidates.T
    wanted = torch.tensor([place for _, place in queries])
    ranks = (scores > scores.gather(1, wanted[:, None])).sum(1).numpy()
    chinese = np.array([any("\u4e00" <= char <= "\u9fff" for char in text) for text, _ in queries])
    figures: dict[str, float] = {"held_out_concepts": len(numbers)}
    for name, chosen in (("chinese", chinese), ("other", ~chinese)):
        if chosen.any():
            figures |= {f"text_to_image_r{k}_{name}": float((ranks[chosen] < k).mean()) for k in (1, 10)}
    return figures


def save(heads: JointHeads, config: EncoderTraining, out: Path, summary: dict[str, Any]) -> None:
    """Write what `LiteEncoder.load(out)` reads, and the settings and the summary beside it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / HEADS_FILE).write_bytes(to_bytes(heads.export()))
    described = LiteConfig(dim=config.dim, scales=config.scales)
    (out / CONFIG_FILE).write_text(described.model_dump_json(indent=2) + "\n", "utf-8")
    training = {"settings": config.model_dump(mode="json"), "summary": summary}
    (out / SUMMARY_FILE).write_text(json.dumps(training, indent=2) + "\n", "utf-8")


def read_summary(out: Path) -> dict[str, Any]:
    """What was trained on and the held-out figures, as `save` wrote them."""
    training = json.loads((out / SUMMARY_FILE).read_text("utf-8"))
    return {**training["summary"], "out": str(out)}


def _rate(step: int, steps: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (0.02 + 0.98 * cosine)


def _moments(features: NDArray[np.float16]) -> tuple[Tensor, Tensor]:
    flat = features.reshape(-1, features.shape[-1]).astype(np.float32)
    return torch.from_numpy(flat.mean(0)), torch.from_numpy(flat.std(0))


def _class_vectors(towers: Towers, features: NDArray[np.float16]) -> NDArray[np.float16]:
    """(..., 512) of features (..., F), in half precision and in chunks: there are tens of thousands."""
    classes = towers.class_sentences()
    flat = features.reshape(-1, features.shape[-1])
    vectors = np.empty((len(flat), classes.shape[1]), dtype=np.float16)
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK].astype(np.float32)
        vectors[start : start + _CHUNK] = towers.probabilities(chunk) @ classes
    return vectors.reshape(*features.shape[:-1], -1)


def _pair(arrays: Iterable[NDArray[Any]]) -> tuple[Tensor, Tensor]:
    first, second = (torch.from_numpy(array) for array in arrays)
    return first, second


def _to(batch: Batch, device: str) -> Batch:
    moved = (
        (a.to(device), b.to(device))
        for a, b in (batch.features, batch.class_vectors, batch.sentences, batch.text_ids)
    )
    return Batch(*moved)
