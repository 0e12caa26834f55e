"""The training loop of an aligner, and its figures: vectors in, weights out. Knows nothing of Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as to_bytes
from torch import Tensor, nn
from torch.nn import functional

from pipelines.core.aligner import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    AlignerDescription,
    Asked,
    Candidates,
    MemoryAligner,
    top,
)
from pipelines.core.aligner_network import PREFIX, residual
from pipelines.train.aligner_config import AlignerTraining
from pipelines.train.aligner_pairs import Pairs

Array = NDArray[np.float32]

SUMMARY_FILE = "training.json"
# Where training starts: the encoder's own order, and a memory that has nearly as much to say.
_SHARPNESS, _ON_QUESTION, _ON_MEMORY = 30.0, 20.0, 10.0
_WEIGHTS_RATE = 3.0
"""The three weights are logarithms of large numbers: they learn so many times faster than a network."""
_WARM_UP = 0.1
_RESAMPLES = 2000
_RERANKED = 20
_MEASURED = 5_000
_QUESTIONS_AT_ONCE = 512


class Examples:
    """Training pairs on a device, and the questions drawn from them."""

    def __init__(self, pairs: Pairs, config: AlignerTraining, device: str) -> None:
        self.config = config
        of = pairs.of
        rng = np.random.default_rng(config.seed)
        kept = np.sort(rng.permutation(len(of))[: config.memory])
        self.visual, self.text, self.pictures = (
            torch.from_numpy(array).to(device) for array in (pairs.visual, pairs.text, pairs.pictures)
        )
        self.groups, self.of, self.memory = (
            torch.from_numpy(array).to(device) for array in (pairs.groups, of, of[kept])
        )
        self.asked_for = torch.zeros(len(pairs.pictures), dtype=torch.bool, device=device)
        self.asked_for[torch.from_numpy(of[pairs.weights > 0, 1])] = True
        self._chances = pairs.weights / pairs.weights.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(B, 2) pairs, and (B,): whether memory is to know nothing of what each question names."""
        asked = rng.choice(len(self._chances), self.config.batch_size, p=self._chances)
        forgotten = rng.random(len(asked)) < self.config.forget
        return self.of[asked], torch.from_numpy(forgotten).to(self.of.device)

    def bears(self, texts: Tensor) -> Tensor:
        """(B, P) of bool: which pictures bear each of the texts (B,)."""
        found = torch.zeros(len(texts), len(self.pictures), dtype=torch.bool, device=texts.device)
        row, pair = torch.where(self.of[:, 0][None] == texts[:, None])
        found[row, self.of[pair, 1]] = True
        return found

    def forgotten(self, pairs: Tensor, all_of_it: Tensor) -> Tensor:
        """(B, M) of bool: what memory must not know: pictures of the wanted one's origin, and where
        `all_of_it`, every picture that bears the question's text."""
        same_group = self.groups[self.memory[:, 1]][None] == self.groups[pairs[:, 1]][:, None]
        return same_group | (self.bears(pairs[:, 0])[:, self.memory[:, 1]] & all_of_it[:, None])

    def candidates(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + negatives): the right picture, then the nearest to the question of those asked for; and
        which are to be told apart: the right one, and those that do not bear the question's text."""
        scores = self.visual[pairs[:, 0]] @ self.pictures.T
        unfit = self.bears(pairs[:, 0]) | ~self.asked_for
        many = min(self.config.negatives, len(self.pictures) - 1)
        nearest = scores.masked_fill(unfit, -torch.inf).topk(many, dim=1).indices
        right = torch.ones(len(pairs), 1, dtype=torch.bool, device=pairs.device)
        return torch.cat([pairs[:, 1:], nearest], 1), torch.cat([right, ~unfit.gather(1, nearest)], 1)


class AlignerModel(nn.Module):
    """`forward` is the loss of questions, so that a data-parallel wrapper sees every parameter used."""

    def __init__(self, description: AlignerDescription, examples: Examples, dropout: float) -> None:
        super().__init__()
        self.examples = examples
        first = torch.tensor([_SHARPNESS, _ON_QUESTION, _ON_MEMORY])
        self.log_weights = nn.Parameter(first.log())
        self.residual = residual(description, dropout)

    def forward(self, pairs: Tensor, forgotten: Tensor) -> Tensor:
        """InfoNCE over each question's right picture and its hardest wrong ones (van den Oord et al.,
        arXiv 1807.03748): contrast and matching in one. A wrong one never bears the question's text."""
        known = self.examples
        sharpness, on_question, on_memory = self.log_weights.exp()
        visual, text = known.visual[pairs[:, 0]], known.text[pairs[:, 0]]
        logits = sharpness * (text @ known.text[known.memory[:, 0]].T)
        logits = logits.masked_fill(known.forgotten(pairs, forgotten), -torch.inf)
        knows = logits.isfinite().any(1, keepdim=True)
        weights = torch.softmax(torch.where(knows, logits, 0.0), dim=1) * knows
        memory = weights @ known.pictures[known.memory[:, 1]]
        candidates, told_apart = known.candidates(pairs)
        vectors = known.pictures[candidates]
        weighed = on_question * visual + on_memory * memory
        scores = torch.einsum("bw,bcw->bc", weighed, vectors)
        if self.residual is not None:
            scores = scores + self.residual(visual, text, memory, vectors)
        scores = scores.masked_fill(~told_apart, -torch.inf)
        return functional.cross_entropy(
            scores, torch.zeros(len(pairs), dtype=torch.long, device=scores.device)
        )


def fit(
    pairs: Pairs,
    description: AlignerDescription,
    config: AlignerTraining,
    rank: int = 0,
    device: str = "cpu",
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> MemoryAligner:
    """Train on the pairs that are not held out."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng((config.seed, rank))
    examples = Examples(pairs.only(~pairs.held_out), config, device)
    model = AlignerModel(description, examples, config.dropout).to(device)
    module = wrap(model)
    torch.manual_seed(config.seed + 1 + rank)  # each worker drops units of its own
    rate, rest = config.learning_rate, [p for n, p in model.named_parameters() if n != "log_weights"]
    groups: list[dict[str, Any]] = [
        {"params": [model.log_weights], "lr": _WEIGHTS_RATE * rate, "weight_decay": 0.0},
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config.steps))
    module.train()
    for step in range(1, config.steps + 1):
        loss = module(*examples.draw(rng))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    return MemoryAligner(description, _tensors(model.eval(), pairs, examples))


def describe(
    pairs: Pairs, scales: int, config: AlignerTraining, space: str, text_space: str
) -> AlignerDescription:
    return AlignerDescription(
        kind=config.kind,
        scales=scales,
        dim=pairs.visual.shape[1] // scales,
        text_dim=pairs.text.shape[1],
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        queries=config.queries,
        space=space,
        text_space=text_space,
    )


def held_out_figures(aligner: MemoryAligner, pairs: Pairs, seed: int = 0) -> dict[str, Any]:
    """R@1 of the held-out texts among the held-out pictures: in the encoder's order, and with its first 20
    reordered; the difference with its 95 % bootstrap interval over questions. Chinese (any Han character) and
    other texts are told apart. Of more than 5,000 pairs some are drawn. Empty without held-out pairs.
    """
    numbers = np.random.default_rng(seed).permutation(np.flatnonzero(pairs.held_out))[:_MEASURED]
    apart = pairs.only(np.isin(np.arange(len(pairs.of)), numbers))
    if not len(apart.of):
        return {}
    asked, places = np.unique(apart.of[:, 0], return_inverse=True)
    pictures = np.unique(apart.of[:, 1])
    bears = np.zeros((len(asked), len(pictures)), dtype=bool)
    bears[places, np.searchsorted(pictures, apart.of[:, 1])] = True
    before, after = hits(aligner, pairs.visual[asked], pairs.text[asked], pairs.pictures[pictures], bears)
    chinese = np.array([any("\u4e00" <= char <= "\u9fff" for char in pairs.texts[text]) for text in asked])
    figures: dict[str, Any] = {"held_out_texts": len(asked), "held_out_pictures": len(pictures)}
    for name, chosen in (("chinese", chinese), ("other", ~chinese)):
        if chosen.any():
            gained = after[chosen].astype(float) - before[chosen]
            figures[name] = {
                "r1_encoder": float(before[chosen].mean()),
                "r1_aligner": float(after[chosen].mean()),
                "gain": float(gained.mean()),
                "gain_95": interval(gained),
            }
    return figures


def hits(
    aligner: MemoryAligner, visual: Array, text: Array, pictures: Array, bears: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each text (Q, W) and (Q, D), whether the first picture of (P, W) bears it (`bears`: (Q, P)) in
    the encoder's order, and once the first 20 are reordered."""
    before, after = [], []
    for start in range(0, len(visual), _QUESTIONS_AT_ONCE):
        block = slice(start, start + _QUESTIONS_AT_ONCE)
        order = np.argsort(-(visual[block] @ pictures.T), axis=1, kind="stable")[:, :_RERANKED]
        questions = zip(visual[block], text[block], strict=True)
        asked = [Asked("", *vectors) for vectors in questions]
        relevance = aligner.relevance(asked, [Candidates(pictures[first]) for first in order])
        rows = np.arange(len(asked))
        chosen = order[rows, [top(scores, 1)[0] for scores in relevance]]
        before.append(bears[block][rows, order[:, 0]])
        after.append(bears[block][rows, chosen])
    return np.concatenate(before), np.concatenate(after)


def interval(values: NDArray[Any]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def save(aligner: MemoryAligner, config: AlignerTraining, out: Path, summary: dict[str, Any]) -> None:
    """Write what `MemoryAligner.load(out)` reads, and the settings and the summary beside it."""
    out.mkdir(parents=True, exist_ok=True)
    halved = {
        name: array if name in ("weights", "memory.counts") else array.astype(np.float16)
        for name, array in aligner.tensors.items()
    }
    (out / WEIGHTS_FILE).write_bytes(to_bytes(halved))
    (out / DESCRIPTION_FILE).write_text(aligner.description.model_dump_json(indent=2) + "\n", "utf-8")
    training = {"settings": config.model_dump(mode="json"), "summary": summary}
    (out / SUMMARY_FILE).write_text(json.dumps(training, indent=2) + "\n", "utf-8")


def _tensors(model: AlignerModel, pairs: Pairs, examples: Examples) -> dict[str, Array]:
    """Memory by text: equal texts have equal weights, so their pictures' mean and number say the same."""
    memory = examples.memory.cpu().numpy()
    texts, places, counts = np.unique(memory[:, 0], return_inverse=True, return_counts=True)
    pictures = np.zeros((len(texts), pairs.pictures.shape[1]), dtype=np.float32)
    np.add.at(pictures, places, pairs.pictures[memory[:, 1]])
    tensors = {
        "memory.texts": pairs.text[texts],
        "memory.pictures": pictures / counts[:, None].astype(np.float32),
        "memory.counts": counts.astype(np.float32),
        "weights": model.log_weights.detach().exp().cpu().numpy(),
    }
    if model.residual is not None:
        trained = dict(model.residual.named_parameters())
        tensors |= {PREFIX + name: value.detach().cpu().numpy() for name, value in trained.items()}
    return tensors


def _rate(step: int, steps: int) -> float:
    cosine = 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    return min(1.0, (step + 1) / max(1, round(_WARM_UP * steps))) * cosine
