"""Measure the `lite` encoder on emoji: unseen concepts, unseen artists, and picture to picture.

    python benchmarks/joint_encoder.py --out DIR [--weights DIR]

Fetches the data into DIR (see benchmarks/data/emoji.py), trains one set of heads for each of five folds
and measures each on the concepts that it did not see; then measures the packaged heads (or --weights), as
they are, on all concepts as drawn by the vendors that no training saw. Prints a Markdown table.
A query is a plain name: emojibase's English or Chinese label. Candidates are the pictures of one vendor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data import emoji
from numpy.typing import NDArray

from pipelines.core.lite import Heads, LiteEncoder, raw_features
from pipelines.core.lite_trunk import Trunk
from pipelines.core.torch_runtime import pick_dtype
from pipelines.train.encoder_config import EncoderTraining
from pipelines.train.encoder_data import Row, Table, extract
from pipelines.train.encoder_loop import Towers, fit

Array = NDArray[np.float32]
LANGUAGES = ("en", "zh")
# From a vendor that is trained on to one that is not; between two that are not; between two that are.
PAIRS = (
    *(("twitter", "facebook"), ("twitter", "apple"), ("google", "facebook"), ("google", "apple")),
    *(("apple", "facebook"), ("twitter", "google")),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """Recall over queries, printed with its interval."""

    ranks: NDArray[np.int64]

    def recall(self, k: int) -> float:
        return float((self.ranks < k).mean())

    def __str__(self) -> str:
        low, high = interval(self.ranks < 1)
        return f"{self.recall(1):.3f} ({low:.3f}–{high:.3f}) | {self.recall(10):.3f}"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Clean pictures' features of each vendor: (concepts, scales, F)."""

    of_vendor: dict[str, NDArray[np.float16]]
    towers: Towers

    def vectors(self, heads: Heads, vendor: str, chosen: NDArray[np.int64]) -> Array:
        """Multi-scale unit vectors of the chosen concepts."""
        features = self.of_vendor[vendor][chosen].astype(np.float32)
        scales = features.shape[1]
        per_scale = [features[:, scale] for scale in range(scales)]
        parts = [heads.image(part, self.towers.probabilities(part)) for part in per_scale]
        return np.concatenate(parts, axis=1) / np.float32(np.sqrt(scales))

    def raw(self, vendor: str) -> Array:
        """The same rule on the pretrained features, without heads."""
        features = self.of_vendor[vendor].astype(np.float32)
        scales = features.shape[1]
        parts = [raw_features(features[:, scale]) for scale in range(scales)]
        return np.concatenate(parts, axis=1) / np.float32(np.sqrt(scales))


def interval(hits: NDArray[Any]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean (2,000 resamples of the queries)."""
    rng = np.random.default_rng(0)
    means = [hits[rng.integers(len(hits), size=len(hits))].mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def ranks(queries: Array, candidates: Array) -> NDArray[np.int64]:
    """The rank, from 0, of candidate i for query i; a tie counts against."""
    scores = queries @ candidates.T
    return (scores >= scores.diagonal()[:, None]).sum(axis=1) - 1


def text_vectors(heads: Heads, towers: Towers, texts: Sequence[str], scales: int) -> Array:
    return np.tile(heads.text(towers.encode(texts)), (1, scales)) / np.float32(np.sqrt(scales))


def load_tables(
    out: Path, concepts: list[emoji.Concept], clipart: list[emoji.Clipart], config: EncoderTraining
) -> tuple[Table, Pictures]:
    """All rows to train on, and every vendor's clean pictures."""
    dtype = pick_dtype(config.extraction_dtype, "cpu")
    towers = Towers(lambda: Trunk("cpu", dtype))
    rows = [Row.model_validate(row) for row in emoji.training_rows(concepts, clipart, held_out_fold=-1)]
    table = extract(rows, out, config, towers.pooled, out / "cache", show_progress)
    place = {row.image: number for number, row in enumerate(table.rows)}
    of_vendor = {}
    for vendor in emoji.TRAINED_VENDORS:
        numbers = [place[f"pictures/{vendor}/{concept.picture}"] for concept in concepts]
        of_vendor[vendor] = table.features[numbers, 0]
    for vendor in emoji.MEASURED_VENDORS:
        paths = [f"pictures/{vendor}/{concept.picture}" for concept in concepts]
        measured = [Row(image=path, concept=path, texts=("-",), split="held-out") for path in paths]
        plain = config.model_copy(update={"views": 1})
        found = extract(measured, out, plain, towers.pooled, out / "cache", show_progress)
        of_vendor[vendor] = found.features[:, 0]
    return table, Pictures(of_vendor, towers)


def show_progress(done: int, total: int) -> None:
    if done % 500 < 4 or done == total:
        print(f"features of {done:,}/{total:,} pictures", file=sys.stderr, flush=True)


def exactly(table: Table, rows: list[dict[str, object]]) -> Table:
    """The table with exactly these rows."""
    place = {row.image: number for number, row in enumerate(table.rows)}
    wanted = [Row.model_validate(row) for row in rows]
    keep = [place[row.image] for row in wanted if row.image in place]
    return Table(tuple(row for row in wanted if row.image in place), table.features[keep], table.skipped)


def cross_validate(
    table: Table,
    pictures: Pictures,
    concepts: list[emoji.Concept],
    clipart: list[emoji.Clipart],
    config: EncoderTraining,
    log: Callable[[str], None],
) -> dict[tuple[str, str], list[NDArray[np.int64]]]:
    """Ranks of held-out concepts by (vendor, language), one array a fold."""
    found: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    for fold in range(emoji.FOLDS):
        start = time.perf_counter()
        rows = exactly(table, emoji.training_rows(concepts, clipart, fold))
        trained = fit(rows, config, pictures.towers)
        heads = Heads({name: tensor.astype(np.float32) for name, tensor in trained.export().items()})
        chosen = np.array([number for number, concept in enumerate(concepts) if concept.fold == fold])
        measure_text(heads, pictures, concepts, chosen, found)
        recalls = {key: round(float((value[-1] < 1).mean()), 3) for key, value in found.items()}
        log(f"fold {fold}: {len(chosen)} concepts, {time.perf_counter() - start:.0f} s, R@1 {recalls}")
    return found


def measure_text(
    heads: Heads,
    pictures: Pictures,
    concepts: list[emoji.Concept],
    chosen: NDArray[np.int64],
    found: dict[tuple[str, str], list[NDArray[np.int64]]],
) -> None:
    for vendor, features in pictures.of_vendor.items():
        candidates = pictures.vectors(heads, vendor, chosen)
        for language in LANGUAGES:
            names = [concepts[number].names[language] for number in chosen]
            queries = text_vectors(heads, pictures.towers, names, features.shape[1])
            found.setdefault((vendor, language), []).append(ranks(queries, candidates))


def fold_means(found: dict[tuple[str, str], list[NDArray[np.int64]]], language: str) -> list[float]:
    """R@1 of each fold, the mean over the vendors that were trained on."""
    folds = range(emoji.FOLDS)
    hits = [[found[vendor, language][fold] < 1 for vendor in emoji.TRAINED_VENDORS] for fold in folds]
    return [float(np.mean(fold)) for fold in hits]


def per_query(found: dict[tuple[str, str], list[NDArray[np.int64]]], language: str) -> NDArray[Any]:
    """Each concept's hits at 1, the mean over the vendors that were trained on."""
    return np.mean([np.concatenate(found[vendor, language]) < 1 for vendor in emoji.TRAINED_VENDORS], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    concepts, clipart = emoji.build(args.out)
    config = EncoderTraining()
    table, pictures = load_tables(args.out, concepts, clipart, config)

    found = cross_validate(table, pictures, concepts, clipart, config, print)
    print("\n| held-out concepts, five folds | R@1 (95 %) | R@10 | R@1 of the folds |\n|---|---|---|---|")
    for (vendor, language), folds in found.items():
        seen = "trained on" if vendor in emoji.TRAINED_VENDORS else "never trained on"
        each = ", ".join(f"{(fold < 1).mean():.3f}" for fold in folds)
        print(f"| {language} → {vendor} ({seen}) | {Figure(np.concatenate(folds))} | {each} |")
    for language in LANGUAGES:
        means = fold_means(found, language)
        low, high = interval(per_query(found, language))
        mean = f"{np.mean(means):.3f} ({low:.3f}–{high:.3f})"
        each = ", ".join(f"{value:.3f}" for value in means)
        print(f"| {language}, mean of google and twitter | {mean} | | {each} |")

    encoder = LiteEncoder.load(args.weights)
    everything = np.arange(len(concepts))
    shipped: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    measure_text(encoder.heads, pictures, concepts, everything, shipped)
    print("\n| packaged heads, all concepts | R@1 (95 %) | R@10 |\n|---|---|---|")
    for (vendor, language), [one] in shipped.items():
        print(f"| {language} → {vendor} | {Figure(one)} |")
    print("\n| picture → picture | R@1 (95 %) | R@10 | raw features R@1 |\n|---|---|---|---|")
    held_out = np.array([number for number, concept in enumerate(concepts) if concept.fold == 0])
    for source, target in PAIRS:
        for name, chosen in (("all", everything), ("held-out fold only", held_out)):
            queries = pictures.vectors(encoder.heads, source, chosen)
            candidates = pictures.vectors(encoder.heads, target, chosen)
            raw = Figure(ranks(pictures.raw(source)[chosen], pictures.raw(target)[chosen]))
            figure = Figure(ranks(queries, candidates))
            print(f"| {source} → {target}, {name} | {figure} | {raw.recall(1):.3f} |")


if __name__ == "__main__":
    main()
