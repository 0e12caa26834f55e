"""`mmrag evaluate`: judged data in, figures out. Imports a measurement only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_lookups import absent_of, cross_modal_of, fused_otherwise, parts, whose
from pipelines.cli_options import (
    DEFAULT_INDEX,
    AsJson,
    Assignments,
    ConfigFile,
    IndexDir,
    effective_settings,
    flowing,
)
from pipelines.cli_report import Run, working
from pipelines.core.errors import UsageError

if TYPE_CHECKING:
    from pipelines.console import ShowProgress
    from pipelines.core.entailment import Entailment
    from pipelines.evaluate.cases import LoadPreview
    from pipelines.evaluate.generation import Report as GenerationReport
    from pipelines.evaluate.given import Given
    from pipelines.evaluate.grounding import Report as GroundingReport
    from pipelines.evaluate.judge import Judge
    from pipelines.evaluate.page import Page
    from pipelines.evaluate.questions import JudgedQuestion
    from pipelines.settings import Settings

SEARCHED = ("encoder", "embedder", "search")
ASKED = (*SEARCHED, "answer", "generator")
"""The groups of settings that figures depend on."""

UNFINISHED = 1
"""Exit status: the judge was asked no more, or gave no reply; the figures are of those that it scored."""

BaselineFile = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        help="Compare with this file, an earlier --json; exit 1 where a measure fell or is gone.",
    ),
]
QuestionFile = Annotated[
    Path,
    typer.Option(
        "--data",
        help='JSONL of questions, each with its right "answers", or "answerable": false where it has none.',
    ),
]
BoxFile = Annotated[
    Path,
    typer.Option("--data", help='JSONL of questions, each with its right "boxes"; one without is left out.'),
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

app = typer.Typer(help="Measure the system on your own data.", no_args_is_help=True)


@app.command(
    "retrieval",
    epilog="Example: mmrag evaluate retrieval --data queries.jsonl --index ./kb --json > today.json, and "
    "tomorrow --baseline today.json. A line of the file: "
    '{"id": "q1", "text": "安装孔距是多少？", "relevant": ["spec-ac-120"]}',
)
@flowing
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

    Overall, by language, and of each branch alone. Ablations: without each branch, and fused otherwise.
    Of queries in words whose answer is a picture: CLIPScore, and how consistent texts and pictures are. A
    measure fell when it became worse and the interval of the difference, by a paired bootstrap over queries,
    does not reach 0; of all queries or of a language.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_retrieval
    from pipelines.core.index import Index
    from pipelines.evaluate.cases import worst_searches
    from pipelines.evaluate.page import Page
    from pipelines.evaluate.queries import read_queries
    from pipelines.evaluate.retrieval import DEFAULT_CUTOFFS, evaluate, ranking_depth

    ks = tuple(sorted(set(cutoffs or DEFAULT_CUTOFFS)))
    depth = ranking_depth(ks, settings.search.candidates)
    run = Run.begin(settings, SEARCHED, baseline, report_file, as_json)
    with Index(index, settings.index) as opened:
        with working() as progress:
            queries = read_queries(data, opened.manifest().metadata_types, split, image_root)
            run.require_common([query for query in queries if query.relevant])
            progress("loading the models", 0, 0)
            opened.check_spaces()
            queries = whose(opened, settings).queries(queries)
            missed = absent_of(queries, opened)
            retriever = opened.retriever(settings.search)
            asking = partial(progress, "asking")
            also = cross_modal_of(queries, opened)
            report = evaluate(
                queries,
                retriever,
                ks,
                depth,
                settings.evaluate,
                asking,
                fused_otherwise(opened, settings),
                also,
            )
        if not report.overall.metrics[f"mrr@{depth}"].mean:
            print("mmrag: nothing relevant was found; are these ids those of the index?", file=sys.stderr)

        def page() -> Page:
            find, load = parts(opened), _previews(index)
            return Page(
                "Retrieval",
                run.facts(data, index) | ({"absent": str(missed)} if missed and missed.missing else {}),
                [
                    {"all queries": report.overall, **report.by_language},
                    {f"{branch} alone": group for branch, group in report.by_branch.items()},
                ],
                worst_searches(queries, report.per_query, depth, retriever, find, load),
                {name: found.metrics for name, found in report.ablations.items()},
                run.system,
                report.instruments,
            )

        told = {"data": str(data), "index": str(index), "absent": asdict(missed) if missed else None}
        run.conclude(report, told, lambda: print_retrieval(report), page, report.instruments)


@app.command(
    "generation",
    epilog="Example: mmrag evaluate generation --data judged.jsonl --index ./kb --json > now.json. Lines of "
    'the file: {"id": "q1", "query": "安装孔距是多少？", "answers": ["90 mm"]} and '
    '{"id": "q2", "query": "Who made it?", "answerable": false}',
)
@flowing
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
    """Ask judged questions: exact match, F1, ROUGE-L, similarity in meaning, citations, refusals.

    With --set evaluate.judge.url=... and evaluate.judge.model=..., a model behind an OpenAI-compatible API
    scores accuracy, completeness and verifiability from 1 to 5; with evaluate.entailment=judge it checks
    citations too, pictures among them. Overall and by language, with intervals.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_generation, warn_of_judge
    from pipelines.core.embedder import load_embedder
    from pipelines.evaluate.generation import evaluate
    from pipelines.evaluate.semantic import Semantic

    run = Run.begin(settings, () if answers else ASKED, baseline, report_file, as_json)
    with working() as progress, ExitStack() as stack:
        questions = _questions(data, answers, index)
        run.require_common(questions)
        judge, entails = _judges(settings, index, stack)
        given = _answers(questions, questions, answers, keep, index, settings, progress)
        judging = partial(progress, "judging")
        semantic = (
            Semantic(load_embedder(settings.embedder)) if any(one.answers for one in questions) else None
        )
        report = evaluate(questions, given, entails, judge, settings.evaluate, judging, semantic)
    warn_of_judge(report)
    if judge and (report.judge["unseen"] or (entails is judge and report.statements.get("unseen"))):
        _warn_of_previews(index, given)
    run.conclude(
        report,
        _told(data, answers, index),
        lambda: print_generation(report),
        lambda: _page(
            "Answers", run, data, answers or index, questions, given, report, index, report.instruments
        ),
        report.instruments,
    )
    if report.unscored.get("unanswered"):
        raise typer.Exit(UNFINISHED)


@app.command(
    "grounding",
    epilog="Example: mmrag evaluate grounding --data boxes.jsonl --index ./kb. A line of the file: "
    '{"id": "q1", "query": "Where is the valve?", "image": "pump.jpg", "boxes": [{"image": "query", "xyxy": '
    "[40, 30, 90, 80]}]}; image may be a hit's id, such as doc#img-0",
)
@flowing
def evaluate_grounding(
    data: BoxFile,
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
    from pipelines.console import print_grounding
    from pipelines.evaluate.grounding import evaluate, with_boxes

    run = Run.begin(settings, () if answers else ASKED, baseline, report_file, as_json)
    with working() as progress:
        questions = _questions(data, answers, index)
        boxed = with_boxes(questions)
        run.require_common(boxed)
        given = _answers(questions, boxed, answers, keep, index, settings, progress)
    report = evaluate(questions, given, settings.evaluate)
    run.conclude(
        report,
        _told(data, answers, index),
        lambda: print_grounding(report),
        lambda: _page("Grounding", run, data, answers or index, boxed, given, report, index),
    )


def _judges(settings: Settings, index: Path, stack: ExitStack) -> tuple[Judge | None, Entailment]:
    """Raises ModelUnavailable and UsageError for a judge that is not there, before anything is answered."""
    from pipelines.core.chat import Chat
    from pipelines.core.entailment import Lexical
    from pipelines.evaluate.judge import Judge, previews_in

    config, words = settings.evaluate, Lexical(settings.evaluate.coverage)
    if not config.judge:
        return None, words
    chat = stack.enter_context(Chat(config.judge))
    chat.owners()
    judge = Judge(chat, previews_in(index / "previews"))
    return judge, judge if config.entailment == "judge" else words


def _warn_of_previews(index: Path, given: Mapping[str, Given]) -> None:
    """What is `unseen` may be a matter of the index: saved answers do not say which one they are from."""
    pictured = any(piece.has_picture for one in given.values() for piece in one.evidence.values())
    if pictured and not (index / "previews").is_dir():
        said = f"there is no {index / 'previews'}, so the judge saw no picture of the evidence"
        print(f"mmrag: {said}: name the index that the answers are from with --index", file=sys.stderr)


def _page(
    title: str,
    run: Run,
    data: Path,
    asked: Path,
    questions: Sequence[JudgedQuestion],
    given: Mapping[str, Given],
    report: GenerationReport | GroundingReport,
    index: Path,
    instruments: Mapping[str, str] = MappingProxyType({}),
) -> Page:
    from pipelines.evaluate.cases import worst_answers
    from pipelines.evaluate.page import Page

    cases = worst_answers(questions, given, report.worst, report.per_query, _previews(index))
    facts = run.facts(data, asked)
    return Page(title, facts, [report.groups], cases, system=run.system, instruments=instruments)


def _questions(data: Path, answers: Path | None, index: Path) -> tuple[JudgedQuestion, ...]:
    from pipelines.core.manifest import Manifest
    from pipelines.evaluate.questions import read_questions

    return read_questions(data, None if answers else Manifest.load(index).metadata_types)


def _answers(
    asked: Sequence[JudgedQuestion],
    measured: Sequence[JudgedQuestion],
    saved: Path | None,
    keep: Path | None,
    index: Path,
    settings: Settings,
    progress: ShowProgress,
) -> dict[str, Given]:
    """To those of the questions that are measured: the saved ones, or those of the index, asked in this
    process and kept where that is wanted."""
    from pipelines.core.index import Index
    from pipelines.evaluate.asking import ask_all, keeping, matched, unmatched
    from pipelines.evaluate.given import read_answers
    from pipelines.knowledge_base import local_answerer

    if saved and keep:
        raise UsageError("--answers FILE and --keep FILE do not go together: these answers are kept already")
    if saved:
        found = read_answers(saved)
        given = matched(measured, found)
        if said := unmatched(asked, measured, found):
            print(f"mmrag: --answers: {said}", file=sys.stderr)
        return given
    with Index(index, settings.index) as opened, keeping(keep) as write:
        asking = whose(opened, settings).questions(measured)
        progress("loading the models", 0, 0)
        answerer = local_answerer(opened, opened.retriever(settings.search), settings)
        return ask_all(asking, answerer, write, lambda done, total: progress("answering", done, total))


def _previews(index: Path) -> LoadPreview:
    from pipelines.core.previews import preview_at

    return partial(preview_at, index / "previews")


def _told(data: Path, answers: Path | None, index: Path) -> dict[str, Any]:
    return {"data": str(data), "answers": str(answers) if answers else None, "index": str(index)}
