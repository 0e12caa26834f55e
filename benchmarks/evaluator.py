"""The evaluator itself: 10,000 judged queries over 100,000 candidates, its time and its memory.

    python benchmarks/evaluator.py [--queries 10000] [--candidates 100000] [--dim 512] [--depth 50]

The corpus is random unit vectors, a picture and a passage a candidate; a query lies between its two right
ones, with noise. A process of its own ranks every candidate exactly, block by block of queries, and keeps the
first --depth of each branch, and the vectors of the queries and of their right pictures: that stands for the
stores and the encoder, and its time is told apart. This process then does what `mmrag evaluate retrieval
--baseline` does with what they return: fuses each query's branches by the real retriever, also in the other
way, measures texts and pictures as pairs, grades hits, branches and ablations, draws the intervals, compares
with the run's own figures as the baseline, and writes the JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core.retriever import Branch, BranchRun, Knowledge, Query, Retriever, SearchConfig
from pipelines.core.space import Space
from pipelines.core.types import Found, Part, SearchResult, part_id, store_key
from pipelines.evaluate.baseline import Baseline, compare
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.cross_modal import cross_modal
from pipelines.evaluate.queries import read_queries
from pipelines.evaluate.retrieval import DEFAULT_CUTOFFS, evaluate

BRANCHES: dict[Branch, float] = {"text_to_image": 5.0, "text": 4.0}
"""And the noise of its queries, in lengths of a vector: one branch sees less than the other."""
_QUERIES_AT_A_TIME = 64
_VECTORS_AT_A_TIME = 4096


def unit(random: np.random.Generator, count: int, dim: int) -> NDArray[np.float32]:
    vectors = random.standard_normal((count, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def right_ones(queries: int, candidates: int) -> NDArray[np.int64]:
    """Two candidates of each query, (queries, 2)."""
    return np.random.default_rng(0).integers(candidates, size=(queries, 2))


def rank(
    queries: int, candidates: int, dim: int, depth: int, noise: float, seed: int
) -> dict[str, NDArray[np.generic]]:
    """Each query's first candidates by the dot product, and these: both (queries, depth). The queries'
    vectors (queries, dim), and those of all candidates that are right, with their places."""
    random = np.random.default_rng(seed)
    corpus = np.empty((candidates, dim), np.float32)
    for start in range(0, candidates, _VECTORS_AT_A_TIME):
        block = corpus[start : start + _VECTORS_AT_A_TIME]
        block[:] = unit(random, len(block), dim)
    right = right_ones(queries, candidates)
    places = np.empty((queries, depth), np.int32)
    scores = np.empty((queries, depth), np.float32)
    vectors = np.empty((queries, dim), np.float32)
    for start in range(0, queries, _QUERIES_AT_A_TIME):
        rows = slice(start, start + _QUERIES_AT_A_TIME)
        meant = corpus[right[rows]].sum(axis=1)
        vectors[rows] = asked = meant + noise * unit(random, len(meant), dim)
        similar = asked @ corpus.T
        first = np.argpartition(-similar, depth, axis=1)[:, :depth]
        found = np.take_along_axis(similar, first, axis=1)
        order = np.argsort(-found, axis=1)
        places[rows] = np.take_along_axis(first, order, axis=1)
        scores[rows] = np.take_along_axis(found, order, axis=1)
    known = np.unique(right)
    return {
        "places": places,
        "scores": scores,
        "queries": vectors,
        "right": known,
        "right_vectors": corpus[known],
    }


def ranked_elsewhere(args: argparse.Namespace, folder: Path) -> float:
    """Ranks in a process of its own, into files. The most memory it had, in MiB."""
    command = [sys.executable, __file__, "--rank-into", str(folder)]
    for name in ("queries", "candidates", "dim", "depth"):
        command += [f"--{name}", str(getattr(args, name))]
    subprocess.run(command, check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


class Stores:
    """A Searcher that returns rankings that are there, and fuses them as the product does; the encoder of its
    queries, whose texts are their numbers, and the store of the pictures that are right."""

    space = Space(model="random", revision="0", dim=0)

    def __init__(self, folder: Path) -> None:
        files = {branch: np.load(folder / f"{branch}.npz") for branch in BRANCHES}
        self._ranked = {branch: (file["places"], file["scores"]) for branch, file in files.items()}
        seen = files["text_to_image"]
        self._queries, self._right = seen["queries"], seen["right_vectors"]
        names = (part_id(f"document-{place}", "image", 0) for place in seen["right"].tolist())
        self._rows = {store_key("", name): row for row, name in enumerate(names)}
        nothing: Any = None  # is asked for nothing
        knowledge = Knowledge(
            encoder=lambda: nothing,
            embedder=lambda: nothing,
            visual=lambda: self,
            text=lambda: nothing,
            lexical=lambda: nothing,
            image_cache=lambda: nothing,
            image_uri=lambda part: part.id,
        )
        config = SearchConfig()
        other = "ranks" if config.fusion == "margins" else "margins"
        self._retriever = Retriever(knowledge, config)
        another = Retriever(knowledge, config.model_copy(update={"fusion": other}))
        self.otherwise = {f"fused by {other}": another}

    def fetch(self, keys: Sequence[str]) -> dict[str, Part]:
        """Pictures that a passage brought: their passages stand for them here."""
        return {}

    def vectors(self, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        return {key: self._right[self._rows[key]] for key in keys if key in self._rows}

    def reads(self, text: str) -> bool:
        return True

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._queries[[int(text) for text in texts]]

    def run_branches(self, query: Query) -> dict[Branch, BranchRun]:
        row = int(query.text or "")
        runs: dict[Branch, BranchRun] = {}
        for branch, (places, scores) in self._ranked.items():
            pairs = zip(places[row].tolist(), scores[row].tolist(), strict=True)
            runs[branch] = BranchRun([_found(branch, place, score) for place, score in pairs], 0.0)
        return runs

    def fused(self, query: Query, runs: Mapping[Branch, BranchRun]) -> SearchResult:
        return self._retriever.fused(query, runs)


def _found(branch: Branch, place: int, score: float) -> Found:
    document = f"document-{place}"
    image = part_id(document, "image", 0)
    if branch == "text_to_image":
        return Found(Part(image, "image", document, "/corpus"), score)
    passage = part_id(document, "chunk", 0)
    return Found(Part(passage, "chunk", document, "/corpus", "words", image_ids=(image,)), score)


def judged(queries: int, candidates: int) -> Iterator[dict[str, Any]]:
    for row, pair in enumerate(right_ones(queries, candidates).tolist()):
        relevant = {f"document-{place}": float(2 - grade) for grade, place in enumerate(pair)}
        language = ("en", "zh")[row % 2]
        yield {"id": f"q{row}", "text": str(row), "language": language, "relevant": relevant}


def measure(args: argparse.Namespace, folder: Path) -> None:
    file, config = folder / "judged.jsonl", EvaluateConfig()
    file.write_text("".join(f"{json.dumps(row)}\n" for row in judged(args.queries, args.candidates)), "utf-8")
    stores, cutoffs = Stores(folder), [k for k in DEFAULT_CUTOFFS if k <= args.depth]
    before = _peak_mib()
    started = time.perf_counter()
    queries = read_queries(file, {})
    pairs: Any = stores  # as far as it is asked: the encoder, and the store of pictures
    also = cross_modal(queries, pairs, pairs, "")
    report = evaluate(queries, stores, cutoffs, args.depth, config, otherwise=stores.otherwise, also=also)
    evaluated = time.perf_counter()
    said = json.dumps(report.as_dict())
    (folder / "report.json").write_text(said, "utf-8")
    compare(report.per_query, Baseline.model_validate_json(said), config, report.instruments)
    ended = time.perf_counter()
    for name, group in {"hits": report.overall, **report.by_branch}.items():
        figures = [f"{one} {group.metrics[one].mean:.3f}" for one in ("recall@1", "recall@10", "ndcg@10")]
        print(f"  {name}: {', '.join(figures)}")
    print(f"evaluate: {(evaluated - started) / 60:.2f} min; JSON and comparison: {ended - evaluated:.1f} s")
    print(f"peak memory: {_peak_mib():,.0f} MiB, of which {before:,.0f} before it began")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB, on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--rank-into", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_into:
        for seed, (branch, noise) in enumerate(BRANCHES.items()):
            ranked = rank(args.queries, args.candidates, args.dim, args.depth, noise, seed)
            np.savez(args.rank_into / f"{branch}.npz", **ranked)
        return
    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        peak = ranked_elsewhere(args, Path(scratch))
        minutes = (time.perf_counter() - started) / 60
        print(f"{args.queries:,} queries x {args.candidates:,} candidates, {args.dim} numbers, 2 branches")
        print(f"exact ranking by numpy, not mmrag's: {minutes:.2f} min, peak memory {peak:,.0f} MiB")
        measure(args, Path(scratch))


if __name__ == "__main__":
    main()
