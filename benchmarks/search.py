"""Search latency: cold from the command line, warm by branch, and with the query picture's vector cached.

    python benchmarks/search.py [--work DIR] [--index DIR] [--runs 7] [--queries 100]

Without --index, the GIMP manual (English) is fetched and ingested first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from measure import ratio, seconds

from pipelines.core.index import Index, IndexConfig
from pipelines.core.retriever import Query, Retriever, SearchConfig
from pipelines.core.stores.embedded import stop

ROOT = Path(__file__).parents[1]
QUESTIONS = json.loads((ROOT / "examples" / "gimp_manual_questions.json").read_text(encoding="utf-8"))


def cold(index: Path, words: list[str], runs: int) -> list[float]:
    """Seconds of whole `mmrag search` processes, the vector servers stopped before each."""
    found = []
    for _ in range(runs):
        for server in (index / "vectors").iterdir():
            stop(server)
        command = [
            str(Path(sys.executable).with_name("mmrag")),
            "search",
            *words,
            "--index",
            str(index),
            "--json",
        ]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return found


def warm(retriever: Retriever, texts: list[str], queries: int) -> None:
    """The hybrid query against its slowest branch, run alone, in pairs over the same questions."""
    texts = [texts[n % len(texts)] for n in range(queries)]
    for text in texts[:10]:
        retriever.search(Query(text))
    hybrid: list[float] = []
    branch_s: dict[str, list[float]] = defaultdict(list)
    for text in texts:
        hybrid.append(seconds(lambda: retriever.search(Query(text))))  # noqa: B023
        for branch in ("text_to_image", "text", "lexical"):
            branch_s[branch].append(retriever.run_branch(branch, Query(text)).elapsed_s)
    p50 = {branch: statistics.median(times) for branch, times in branch_s.items()}
    slowest = max(p50, key=lambda branch: p50[branch])
    print("branches alone, p50 ms: " + ", ".join(f"{b} {1000 * t:.1f}" for b, t in p50.items()))
    print(f"hybrid, p50 ms: {1000 * statistics.median(hybrid):.1f}; slowest branch: {slowest}")
    blocks = min(10, queries)
    parts = [np.array_split(np.array(times), blocks) for times in (hybrid, branch_s[slowest])]
    medians = [[float(np.median(block)) for block in part] for part in parts]
    print(f"hybrid p50 / slowest branch p50, {blocks} blocks: {ratio(*medians)}")


def query_picture(index: Index, retriever: Retriever, pairs: int) -> None:
    picture = next(index.previews.glob("*/*.jpg")).read_bytes()
    index.encoder().encode_asked(picture)
    retriever.pictures.vectors(picture)
    computed = [seconds(lambda: index.encoder().encode_asked(picture)) for _ in range(pairs)]
    cached = [seconds(lambda: retriever.pictures.vectors(picture)) for _ in range(pairs)]
    print(f"query picture, cached / computed: {ratio(cached, computed)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    directory = arguments.index
    if directory is None:
        directory = arguments.work / "gimp" / "index"
        subprocess.run(
            [sys.executable, ROOT / "examples" / "gimp_manual.py", arguments.work / "gimp"], check=True
        )
    texts = [entry["question"] for entry in QUESTIONS["questions"]]
    with Index(directory, IndexConfig()) as index:
        preview = str(next(index.previews.glob("*/*.jpg")))
        print("cold `mmrag search`, the vector server not running, seconds (median, slowest):")
        for what, words in (("text", [texts[0]]), ("picture", ["--image", preview])):
            times = cold(directory, words, arguments.runs)
            print(f"  {what}: {statistics.median(times):.2f}, {max(times):.2f} of {len(times)}")
        retriever = index.retriever(SearchConfig())
        warm(retriever, texts, arguments.queries)
        query_picture(index, retriever, 30)


if __name__ == "__main__":
    main()
