"""`mmrag evaluate`: judged data in, figures out. Imports a measurement only when it runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_options import (
    DEFAULT_INDEX,
    AsJson,
    Assignments,
    ConfigFile,
    IndexDir,
    effective_settings,
    print_json,
)

FELL = 1
"""Exit status: a measure is worse than the baseline's."""

app = typer.Typer(help="Measure the system on your own data.", no_args_is_help=True)


@app.command(
    "retrieval",
    epilog="Example: mmrag evaluate retrieval --data queries.jsonl --index ./kb --json > today.json, and "
    "tomorrow --baseline today.json. A line of the file: "
    '{"id": "q1", "text": "安装孔距是多少？", "relevant": ["spec-ac-120"]}',
)
def evaluate_retrieval(
    data: Annotated[
        Path,
        typer.Option(
            "--data", help="JSONL of queries and what is relevant, M-BEIR's too; or a BEIR directory."
        ),
    ],
    cutoffs: Annotated[
        list[int] | None, typer.Option("-k", help="Measure the first k. Repeatable; default: 1, 5, 10, 20.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Compare with this file, an earlier --json; exit 1 where a measure fell."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of a BEIR directory: qrels/SPLIT.tsv.")] = "test",
    image_root: Annotated[
        Path | None, typer.Option("--image-root", help="Where pictures lie. Default: the data's folder.")
    ] = None,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Ask the index judged queries: recall, success, nDCG, MRR and mean rank, with intervals.

    Overall, by language, and by branch. A measure fell when it became worse and the interval of the
    difference, by a paired bootstrap over queries, does not reach 0.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_comparison, print_retrieval, progress_bar
    from pipelines.core.index import Index
    from pipelines.evaluate.baseline import compare, read_baseline, require_common
    from pipelines.evaluate.queries import read_queries
    from pipelines.evaluate.retrieval import DEFAULT_CUTOFFS, evaluate, ranking_depth

    ks = tuple(sorted(set(cutoffs or DEFAULT_CUTOFFS)))
    depth = ranking_depth(ks, settings.search.candidates)
    earlier = read_baseline(baseline) if baseline else None
    with Index(index, settings.index) as opened, progress_bar() as progress, redirect_stdout(sys.stderr):
        queries = read_queries(data, opened.manifest().metadata_types, split, image_root)
        if earlier:
            require_common(queries, earlier)
        progress("loading the models", 0, 0)
        opened.check_spaces()
        report = evaluate(
            queries,
            opened.retriever(settings.search),
            ks,
            depth,
            settings.evaluate,
            lambda done, total: progress("asking", done, total),
        )
    if not report.overall.metrics[f"mrr@{depth}"].mean:
        print("mmrag: nothing relevant was found; are these ids those of the index?", file=sys.stderr)
    comparison = compare(report.per_query, earlier, settings.evaluate) if earlier else None
    if as_json:
        said = {"data": str(data), "index": str(index), **settings.evaluate.bootstrap, **report.as_dict()}
        print_json(said | {"comparison": comparison.as_dict() if comparison else None})
    else:
        print_retrieval(report)
        if comparison:
            print_comparison(comparison)
    if comparison and comparison.fallen:
        print(f"mmrag: fell against {baseline}: {', '.join(comparison.fallen)}", file=sys.stderr)
        raise typer.Exit(FELL)
