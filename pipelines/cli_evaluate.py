"""`mmrag evaluate`: judged data in, figures out. Imports a measurement only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from pipelines.core.errors import UsageError

if TYPE_CHECKING:
    from pipelines.evaluate.baseline import Comparison
    from pipelines.evaluate.cases import LoadPreview
    from pipelines.evaluate.given import Given
    from pipelines.evaluate.questions import JudgedQuestion
    from pipelines.settings import Settings

FELL = 1
"""Exit status: a measure is worse than the baseline's."""
UNFINISHED = 1
"""Exit status: the judge was asked no more, or gave no reply; the figures are of those that it scored."""

BaselineFile = Annotated[
    Path | None,
    typer.Option(
        "--baseline", help="Compare with this file, an earlier --json; exit 1 where a measure fell."
    ),
]
QuestionFile = Annotated[
    Path, typer.Option("--data", help="JSONL of questions with their answers, boxes, or that there are none.")
]
AnswerFile = Annotated[
    Path | None,
    typer.Option(
        "--answers",
        help="Measure these instead of asking: ask --batch's Parquet, or JSONL of ask --json with each id.",
    ),
]
KeptFile = Annotated[
    Path | None, typer.Option("--keep", help="Write the answers to this JSONL file, for --answers.")
]

ReportFile = Annotated[
    Path | None,
    typer.Option("--report", help="Write an HTML page, too: figures, changes, and the worst with pictures."),
]

Progress = Callable[[str, int, int], None]

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
    baseline: BaselineFile = None,
    report_file: ReportFile = None,
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

    Overall, by language, of each branch alone, and what is lost without it. A measure fell when it became
    worse and the interval of the difference, by a paired bootstrap over queries, does not reach 0.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_retrieval, progress_bar
    from pipelines.core.index import Index
    from pipelines.evaluate.baseline import compare, read_baseline, require_common
    from pipelines.evaluate.cases import worst_searches
    from pipelines.evaluate.page import check_place, write_page
    from pipelines.evaluate.queries import read_queries
    from pipelines.evaluate.retrieval import DEFAULT_CUTOFFS, evaluate, ranking_depth

    ks = tuple(sorted(set(cutoffs or DEFAULT_CUTOFFS)))
    depth = ranking_depth(ks, settings.search.candidates)
    earlier = read_baseline(baseline) if baseline else None
    if report_file:
        check_place(report_file)
    with Index(index, settings.index) as opened, progress_bar() as progress, redirect_stdout(sys.stderr):
        queries = read_queries(data, opened.manifest().metadata_types, split, image_root)
        if earlier:
            require_common(queries, earlier)
        progress("loading the models", 0, 0)
        opened.check_spaces()
        retriever = opened.retriever(settings.search)
        report = evaluate(
            queries,
            retriever,
            ks,
            depth,
            settings.evaluate,
            lambda done, total: progress("asking", done, total),
        )
        cases = (
            worst_searches(queries, report.per_query, depth, retriever, _previews(index))
            if report_file
            else ()
        )
    if not report.overall.metrics[f"mrr@{depth}"].mean:
        print("mmrag: nothing relevant was found; are these ids those of the index?", file=sys.stderr)
    comparison = compare(report.per_query, earlier, settings.evaluate) if earlier else None
    if report_file:
        tables = [
            {"all queries": report.overall, **report.by_language},
            {f"{branch} alone": group for branch, group in report.by_branch.items()},
        ]
        without = {str(branch): found.metrics for branch, found in report.without.items()}
        write_page(
            report_file, "Retrieval", _facts(data, index, settings), tables, cases, comparison, without
        )
    said = {"data": str(data), "index": str(index), **settings.evaluate.bootstrap, **report.as_dict()}
    _conclude(said, lambda: print_retrieval(report), comparison, baseline, as_json)


@app.command(
    "generation",
    epilog="Example: mmrag evaluate generation --data judged.jsonl --index ./kb --json > now.json. Lines of "
    'the file: {"id": "q1", "query": "安装孔距是多少？", "answers": ["90 mm"]} and '
    '{"id": "q2", "query": "Who made it?", "answerable": false}',
)
def evaluate_generation(
    data: QuestionFile,
    answers: AnswerFile = None,
    keep: KeptFile = None,
    baseline: BaselineFile = None,
    report_file: ReportFile = None,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Ask judged questions: exact match, F1, ROUGE-L, citation recall and precision, refusals.

    With --set evaluate.judge.url=... and evaluate.judge.model=..., a model behind an OpenAI-compatible API
    scores accuracy, completeness and verifiability from 1 to 5; with evaluate.entailment=judge it checks
    citations too, pictures among them. Overall and by language, with intervals.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_generation, progress_bar, warn_of_judge
    from pipelines.core.chat import Chat
    from pipelines.core.entailment import Entailment, Lexical
    from pipelines.evaluate.baseline import compare, read_baseline, require_common
    from pipelines.evaluate.cases import worst_answers
    from pipelines.evaluate.generation import evaluate
    from pipelines.evaluate.judge import Judge, previews_in
    from pipelines.evaluate.page import check_place, write_page

    earlier = read_baseline(baseline) if baseline else None
    if report_file:
        check_place(report_file)
    with progress_bar() as progress, redirect_stdout(sys.stderr), ExitStack() as stack:
        questions = _questions(data, answers, index)
        if earlier:
            require_common(questions, earlier)
        judge: Judge | None = None
        entails: Entailment = Lexical(settings.evaluate.coverage)
        if settings.evaluate.judge:
            chat = stack.enter_context(Chat(settings.evaluate.judge))
            chat.owners()  # asked for the errors that it raises, before anything is answered
            judge = Judge(chat, previews_in(index / "previews"))
            entails = judge if settings.evaluate.entailment == "judge" else entails
        given = _answers(questions, answers, keep, index, settings, progress)
        report = evaluate(
            questions,
            given,
            entails,
            judge,
            settings.evaluate,
            lambda done, total: progress("judging", done, total),
        )
    comparison = (
        compare(report.per_query, earlier, settings.evaluate, report.instruments) if earlier else None
    )
    if report_file:
        cases = worst_answers(questions, given, report.worst, report.per_query, _previews(index))
        facts = _facts(data, answers or index, settings)
        write_page(report_file, "Answers", facts, [report.groups], cases, comparison)
    said = _told(data, answers, index) | settings.evaluate.bootstrap | report.as_dict()
    warn_of_judge(report)
    _conclude(said, lambda: print_generation(report), comparison, baseline, as_json)
    if report.unscored.get("unanswered"):
        raise typer.Exit(UNFINISHED)


@app.command(
    "grounding",
    epilog="Example: mmrag evaluate grounding --data boxes.jsonl --index ./kb. A line of the file: "
    '{"id": "q1", "query": "Where is the valve?", "image": "pump.jpg", "boxes": [{"image": "query", "xyxy": '
    "[40, 30, 90, 80]}]}; image may be a hit's id, such as doc#img-0",
)
def evaluate_grounding(
    data: QuestionFile,
    answers: AnswerFile = None,
    keep: KeptFile = None,
    baseline: BaselineFile = None,
    report_file: ReportFile = None,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Ask for boxes: IoU with the right ones, precision and recall at an IoU of .5, with intervals.

    An answer without a box, or with one that cannot be read, counts as wrong. Overall and by language.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_grounding, progress_bar
    from pipelines.evaluate.baseline import compare, read_baseline, require_common
    from pipelines.evaluate.cases import worst_answers
    from pipelines.evaluate.grounding import evaluate, with_boxes
    from pipelines.evaluate.page import check_place, write_page

    earlier = read_baseline(baseline) if baseline else None
    if report_file:
        check_place(report_file)
    with progress_bar() as progress, redirect_stdout(sys.stderr):
        questions = _questions(data, answers, index)
        boxed = with_boxes(questions)
        if earlier:
            require_common(boxed, earlier)
        given = _answers(boxed, answers, keep, index, settings, progress)
    report = evaluate(questions, given, settings.evaluate)
    comparison = compare(report.per_query, earlier, settings.evaluate) if earlier else None
    if report_file:
        cases = worst_answers(boxed, given, report.worst, report.per_query, _previews(index))
        facts = _facts(data, answers or index, settings)
        write_page(report_file, "Grounding", facts, [report.groups], cases, comparison)
    said = _told(data, answers, index) | settings.evaluate.bootstrap | report.as_dict()
    _conclude(said, lambda: print_grounding(report), comparison, baseline, as_json)


def _questions(data: Path, answers: Path | None, index: Path) -> tuple[JudgedQuestion, ...]:
    from pipelines.core.manifest import Manifest
    from pipelines.evaluate.questions import read_questions

    return read_questions(data, None if answers else Manifest.load(index).metadata_types)


def _answers(
    questions: Sequence[JudgedQuestion],
    saved: Path | None,
    keep: Path | None,
    index: Path,
    settings: Settings,
    progress: Progress,
) -> dict[str, Given]:
    """The saved ones, or those of the index, asked in this process and kept where that is wanted."""
    from pipelines.core.index import Index
    from pipelines.evaluate.asking import ask_all, keeping, matched
    from pipelines.evaluate.given import read_answers
    from pipelines.knowledge_base import local_answerer

    if saved and keep:
        raise UsageError("--answers FILE and --keep FILE do not go together: these answers are kept already")
    if saved:
        return matched(questions, read_answers(saved))
    with Index(index, settings.index) as opened, keeping(keep) as write:
        progress("loading the models", 0, 0)
        answerer = local_answerer(opened, opened.retriever(settings.search), settings)
        return ask_all(questions, answerer, write, lambda done, total: progress("answering", done, total))


def _previews(index: Path) -> LoadPreview:
    from pipelines.core.previews import preview_at

    return partial(preview_at, index / "previews")


def _facts(data: Path, asked: Path, settings: Settings) -> dict[str, str]:
    """The head of a page."""
    config = settings.evaluate
    return {
        "data": str(data),
        "asked": str(asked),
        "intervals": f"{config.confidence:.0%}, bootstrap of {config.resamples:,} resamples over the queries",
    }


def _told(data: Path, answers: Path | None, index: Path) -> dict[str, Any]:
    return {"data": str(data), "answers": str(answers) if answers else None, "index": str(index)}


def _conclude(
    said: dict[str, Any],
    show: Callable[[], None],
    comparison: Comparison | None,
    baseline: Path | None,
    as_json: bool,
) -> None:
    """Print a report and what it is against the baseline; where a measure fell, that is the exit status."""
    from pipelines.console import print_comparison

    if as_json:
        print_json(said | {"comparison": comparison.as_dict() if comparison else None})
    else:
        show()
        if comparison:
            print_comparison(comparison)
    if comparison and comparison.fallen:
        print(f"mmrag: fell against {baseline}: {', '.join(comparison.fallen)}", file=sys.stderr)
        raise typer.Exit(FELL)
