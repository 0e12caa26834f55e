"""The demo from end to end: draw the corpus, ingest it, search it, ask a server of it, write the report."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rich.console import Console

from pipelines.console import print_summary, progress_bar
from pipelines.core import filters
from pipelines.core.generator import load_profile
from pipelines.core.index import Index
from pipelines.core.previews import annotated_pictures
from pipelines.core.retriever import Query, Retriever
from pipelines.core.types import result_dict
from pipelines.demo import (
    ASKED,
    QUESTIONS,
    AnswerRun,
    Asked,
    IngestSummary,
    QueryRun,
    Question,
    answer_table,
    build,
    table,
    write_report,
)
from pipelines.ingest.job import ingest
from pipelines.ingest.summary import Summary
from pipelines.serve.client import ask, served
from pipelines.settings import Settings

_K = 10
# The demo's server is for its own questions, wherever the settings' server listens and whoever may ask it, on
# whatever machine this is.
_OPEN = (
    "--set=serve.layout=compact",
    "--host=127.0.0.1",
    "--set=serve.api_keys=[]",
    "--set=serve.allowed_hosts=[]",
    "--set=serve.rate_per_minute=0",
)


def run_demo(out: Path, settings: Settings, options: Sequence[str] = ()) -> Path:
    """Do it all under `out`; returns the report's path. A second run uses what the first one wrote.

    `options`: the words of the command line that `settings` came from, for the server's process. Raises
    UsageError for a model that cannot answer, before anything is done.
    """
    load_profile(settings.generator)
    out.mkdir(parents=True, exist_ok=True)
    print("drawing the example corpus", file=sys.stderr)
    corpus, index_dir = out / "corpus", out / "index"
    manifest = build(corpus)
    with progress_bar() as progress:
        summary = ingest([str(manifest)], index_dir, settings.index, settings.ingest, progress)
    print_summary(summary, index_dir)
    with Index(index_dir, settings.index) as index:
        retriever = index.retriever(settings.search)
        types = index.manifest().metadata_types
        runs = [_search(retriever, question, corpus, types) for question in QUESTIONS]
        models = f"visual: {index.encoder().model.name}; text: {index.embedder().space.model}"
        totals = _ingest_summary(summary)
    answers = _answers(corpus, index_dir, options)
    report = out / "report.html"
    write_report(report, corpus, runs, answers, load_image=_load_preview, ingest=totals, models=models)
    Console().print(table(runs))
    Console().print(answer_table(answers))
    print(f"the report with pictures: {report}")
    return report


def _answers(corpus: Path, index_dir: Path, options: Sequence[str]) -> list[AnswerRun]:
    """From a server of the index, as any client would ask it."""
    with served(index_dir, [*options, *_OPEN]) as address:
        return [_ask(address, question, corpus, index_dir) for question in ASKED]


def _ask(address: str, question: Asked, corpus: Path, index_dir: Path) -> AnswerRun:
    picture = (corpus / question.image).read_bytes() if question.image else None
    start = time.perf_counter()
    answer = ask(address, {"query": question.text}, picture)
    elapsed_ms = (time.perf_counter() - start) * 1000
    marked = []
    for _, image in annotated_pictures(answer, picture, index_dir / "previews"):
        assert image is not None  # the corpus has just been ingested
        image.save(out := io.BytesIO(), "JPEG", quality=85)
        marked.append(out.getvalue())
    return AnswerRun(question, answer, elapsed_ms, tuple(marked))


def _search(retriever: Retriever, question: Question, corpus: Path, types: Mapping[str, str]) -> QueryRun:
    where = filters.parse(question.filter) if question.filter else None
    if where is not None:
        filters.check(where, types)
    query = Query(
        text=question.text or None,
        image=(corpus / question.image).read_bytes() if question.image else None,
        mode=question.mode,
        k=_K,
        where=where,
    )
    start = time.perf_counter()
    result = retriever.search(query)
    return QueryRun(question, result_dict(result), (time.perf_counter() - start) * 1000)


def _load_preview(hit: Mapping[str, Any]) -> bytes | None:
    uri = hit["image_uri"]
    return Path(unquote(urlparse(uri).path)).read_bytes() if uri else None


def _ingest_summary(summary: Summary) -> IngestSummary:
    """Of the whole index, so that a second run's report does not say that it holds nothing."""
    totals = summary.index
    seconds = summary.elapsed_s if summary.documents else 0.0
    return IngestSummary(totals["documents"], totals["images"], totals["chunks"], totals["rejected"], seconds)
