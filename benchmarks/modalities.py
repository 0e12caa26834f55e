"""What do captions, OCR and pictures add? The same questions to four systems.

    python benchmarks/modalities.py [--questions 12] [--seed 0] [--price-per-hour 1.0] [--keep DIR]

- `text`: the corpus without its pictures and captions; the branches that search text.
- `read`: captions, and what OCR reads in the pictures, as text beside it. A question's own picture is read
  too, and its words are put before the question. No picture is searched or shown.
- `shown`: the same index, found by its words alone, the first picture shown to the model. A question's own
  picture is searched with, read, and shown.
- `full`: by default settings: for a text, too, pictures are searched by their vectors.

Draws the corpus (benchmarks/data/machines.py), ingests it once without and once with pictures, and asks in a
process for each system, one question after the other. Answers come from tiny-llava by transformers, without
Ray. Prints two Markdown tables, and what each system adds to the one before it. --keep: write each system's
answers there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from measure import peak_memory, seconds

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.data import machines
from pipelines.core.answer import Answerer, Question
from pipelines.core.entailment import Lexical
from pipelines.core.index import Index
from pipelines.core.ocr import read_lines
from pipelines.core.ocr_config import OcrConfig
from pipelines.core.retriever import TEXT, Query, Retriever
from pipelines.core.stores.embedded import stop
from pipelines.core.types import Answer, SearchResult
from pipelines.evaluate.asking import ask_all, keeping
from pipelines.evaluate.baseline import changes
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import Estimate, group
from pipelines.evaluate.generation import figures
from pipelines.evaluate.questions import read_questions
from pipelines.knowledge_base import local_answerer
from pipelines.settings import load_settings

MMRAG = Path(sys.executable).with_name("mmrag")
COLUMNS = {
    "found": "found",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "refusal_accuracy": "refusal accuracy",
}


@dataclass(frozen=True, slots=True)
class System:
    """`corpus`: its manifest, and the name of its index. `photographs`: what becomes of a question's own.
    Where these are searched with, so are texts."""

    corpus: str
    photographs: Literal["dropped", "read", "searched"]
    settings: tuple[str, ...]


READ = ("ingest.ocr.kind=rapidocr", "search.ocr.kind=rapidocr")
SYSTEMS = {
    "text": System("texts", "dropped", ("generator.max_pictures=0",)),
    "read": System("whole", "read", ("ingest.ocr.kind=rapidocr", "generator.max_pictures=0")),
    "shown": System("whole", "searched", (*READ, "search.alpha_text=0")),
    "full": System("whole", "searched", READ),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One question's figures: `found`, and those of `mmrag evaluate generation`."""

    id: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class TextBranches:
    """A retriever that searches no pictures."""

    retriever: Retriever

    def search(self, query: Query) -> SearchResult:
        runs = {branch: self.retriever.run_branch(branch, query) for branch in TEXT}
        return self.retriever.fused(query, runs)


@dataclass(frozen=True, slots=True)
class Watched:
    """An Answerer that says how long each question took, and which documents its evidence was of."""

    answerer: Answerer
    photographs: Literal["dropped", "read", "searched"]
    ocr: OcrConfig
    waited_s: list[float] = field(default_factory=list)
    documents: list[set[str]] = field(default_factory=list)

    async def answer(self, question: Question) -> Answer:
        documents: set[str] = set()
        start = time.perf_counter()
        try:
            answer = await self.answerer.answer(replace(question, query=self._as_asked(question.query)))
            documents = {hit.document_id for hit in answer.hits}
        finally:  # a question that is refused has its place, too
            self.waited_s.append(time.perf_counter() - start)
            self.documents.append(documents)
        return answer

    def _as_asked(self, query: Query) -> Query:
        if query.image is None or self.photographs == "searched":
            return query
        words = []
        if self.photographs == "read":
            words = [line.text for line in read_lines(self.ocr, query.image)]
        return replace(query, text=" ".join([*words, query.text or ""]), image=None)


def ask(name: str, work: Path, made: Sequence[machines.Made], keep: Path | None) -> dict[str, Any]:
    """All questions to one system, in this process: figures by question, seconds, MiB."""
    system = SYSTEMS[name]
    settings = load_settings(None, (*system.settings, "generator.engine=transformers"))
    questions = read_questions(work / "questions.jsonl", {})
    with peak_memory(os.getpid()) as memory, Index(work / f"{system.corpus}-index", settings.index) as index:
        retriever = index.retriever(settings.search)
        searched = retriever if system.photographs == "searched" else TextBranches(retriever)
        answerer = local_answerer(index, searched, settings)
        some = questions[:: max(1, len(questions) // 12)]  # of every kind: all models load
        ask_all(some, Watched(answerer, system.photographs, settings.ingest.ocr))
        watched = Watched(answerer, system.photographs, settings.ingest.ocr)
        with keeping(keep / f"{name}.jsonl" if keep else None) as write:
            given = ask_all(questions, watched, write)
    entails = Lexical(settings.evaluate.coverage)
    metrics = {
        question.id: dict(figures(question, given[question.id], entails, None).metrics)
        for question in questions
    }
    for one, documents in zip(made, watched.documents, strict=True):
        if needed := one.asked.needed:
            metrics[one.asked.id]["found"] = float(needed <= documents)
    return {"metrics": metrics, "waited_s": watched.waited_s, **memory}


def ingest(work: Path, name: str) -> float:
    """Seconds, with the start of Ray; once for systems of one corpus."""
    system = SYSTEMS[name]
    index = work / f"{system.corpus}-index"
    command = [MMRAG, "ingest", work / f"{system.corpus}.jsonl", "--index", index]
    for assignment in system.settings:
        command += ["--set", assignment]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def stop_servers(index: Path) -> None:
    """So that each system starts those that it needs, and no others."""
    for server in (index / "vectors").iterdir():
        stop(server)


def table(asked: Sequence[machines.Asked], found: dict[str, dict[str, Any]], config: EvaluateConfig) -> str:
    lines = [
        f"| question | language | system | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 3) + "|",
    ]
    for kind in machines.KINDS_OF_QUESTION:
        for language in machines.LANGUAGES:
            ids = [one.id for one in asked if (one.kind, one.language) == (kind, language)]
            for name, told in found.items():
                metrics = group([Measured(one, told["metrics"][one]) for one in ids], config).metrics
                cells = " | ".join(shown(metrics.get(column)) for column in COLUMNS)
                lines.append(f"| {kind} | {language} | {name} | {cells} |")
    return "\n".join(lines)


def shown(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.mean:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"


def costs(found: dict[str, dict[str, Any]], ingest_s: dict[str, float], price: float) -> str:
    lines = [
        "| system | ingest, s | a question, p50 ms | p95 ms | peak memory, MiB | its vector servers, MiB "
        "| 10,000 questions, h | cost |",
        "|---" * 8 + "|",
    ]
    for name, told in found.items():
        waited_s = told["waited_s"]
        p50, p95 = np.percentile(waited_s, [50, 95]) * 1000
        hours = 10_000 / (len(waited_s) / sum(waited_s)) / 3600
        lines.append(
            f"| {name} | {ingest_s[SYSTEMS[name].corpus]:.0f} | {p50:.0f} | {p95:.0f} "
            f"| {told['peak_mb']:.0f} | {told['servers_mb']:.0f} | {hours:.2f} | {hours * price:.2f} |"
        )
    return "\n".join(lines)


def gains(
    asked: Sequence[machines.Asked], found: dict[str, dict[str, Any]], config: EvaluateConfig
) -> list[str]:
    """Exact match of a system against the one before it, over all questions that have an answer, paired."""
    ids = [one.id for one in asked if one.answers]
    lines = []
    for before, now in pairwise(found):
        pairs = [(found[now]["metrics"][one], found[before]["metrics"][one]) for one in ids]
        change = changes(["exact_match"], pairs, config)["exact_match"]
        lines.append(
            f"exact match, {now} against {before}, {change.queries} questions with an answer: "
            f"{change.before:.3f} -> {change.now:.3f}, {change.difference:+.3f} "
            f"({change.low:+.3f} to {change.high:+.3f})"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=12, help="of each kind and language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--price-per-hour", type=float, default=1.0, help="of the machine")
    parser.add_argument("--keep", type=Path, help="write each system's answers into this directory")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    made = machines.build(arguments.questions, arguments.seed)
    if arguments.system:
        print(json.dumps(ask(arguments.system, arguments.work, made, arguments.keep)))
        return
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "corpus"
        machines.write(made, work)
        ingest_s = {}
        found = {}
        for name, system in SYSTEMS.items():
            if system.corpus not in ingest_s:
                ingest_s[system.corpus] = ingest(work, name)
            stop_servers(work / f"{system.corpus}-index")
            command = [sys.executable, __file__, *sys.argv[1:], "--system", name, "--work", work]
            found[name] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        for corpus in ingest_s:
            stop_servers(work / f"{corpus}-index")
    asked = [one.asked for one in made]
    pages = sum(len(one.pages) for one in made)
    print(f"{len(asked)} questions to {pages} documents\n")
    print(table(asked, found, EvaluateConfig()), end="\n\n")
    print(costs(found, ingest_s, arguments.price_per_hour), end="\n\n")
    print("\n".join(gains(asked, found, EvaluateConfig())))


if __name__ == "__main__":
    main()
