"""The demo from end to end: draw the corpus, ingest it, ask the questions, write the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from rich.console import Console

from pipelines.console import print_summary, progress_bar
from pipelines.core import filters
from pipelines.core.index import Index
from pipelines.core.retriever import Query, Retriever
from pipelines.core.types import result_dict
from pipelines.demo import QUESTIONS, IngestSummary, QueryRun, Question, build, table, write_report
from pipelines.ingest.job import Summary, ingest
from pipelines.settings import Settings

_K = 10


def run_demo(out: Path, settings: Settings) -> Path:
    """Do it all under `out`; returns the report's path. A second run uses what the first one wrote."""
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
        runs = [_ask(retriever, question, corpus, types) for question in QUESTIONS]
        models = f"visual: {index.encoder().model.name}; text: {index.embedder().space.model}"
        totals = _ingest_summary(summary)
    report = out / "report.html"
    write_report(report, corpus, runs, load_image=_load_preview, ingest=totals, models=models)
    Console().print(table(runs))
    print(f"the report with pictures: {report}")
    return report


def _ask(retriever: Retriever, question: Question, corpus: Path, types: Mapping[str, str]) -> QueryRun:
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
