"""The `mmrag` command: settings in, one job out. Imports a job only when it runs.

Results go to stdout; progress and errors go to stderr. Exit status: 0 done, 1 the job failed,
2 the command was wrong, 3 done with rows in the dead-letter file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import __version__
from pipelines.cli_archive import export, import_
from pipelines.cli_config import app as config_app
from pipelines.cli_evaluate import app as evaluate_app
from pipelines.cli_options import (
    DEFAULT_INDEX,
    REFUSED_ROWS,
    AsJson,
    Assignments,
    ConfigFile,
    IndexDir,
    effective_settings,
    print_json,
    question_query,
)
from pipelines.cli_serve import ask, serve
from pipelines.cli_train import app as train_app
from pipelines.core.errors import BadImage, IndexLocked, MmragError, StoreLocked, UsageError

if TYPE_CHECKING:
    from pipelines.settings import Settings

INTERRUPTED = 130

app = typer.Typer(
    name="mmrag",
    help="Multimodal retrieval-augmented generation on Ray: pictures and text in one index.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train_app, name="train")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(config_app, name="config")
app.command(epilog="Example: mmrag ask 'Which voltage does the pump LK-847 need?' --annotate marked.png")(ask)
app.command(epilog="Example: mmrag serve --index ./kb --port 8000")(serve)
app.command(epilog="Example: mmrag export s3://backups/kb --index ./kb")(export)
app.command("import", epilog="Example: mmrag import s3://backups/kb --index ./kb2")(import_)


def main() -> None:
    """Entry point: a failure ends in one line on stderr and the contract's exit status."""
    try:
        app()
    except MmragError as exc:
        print(f"mmrag: {exc}", file=sys.stderr)
        sys.exit(exc.exit_status)
    except SystemExit as exc:
        if exc.code == INTERRUPTED:  # typer makes this of Ctrl-C
            print(
                "mmrag: interrupted; what was written stays, run the command again to go on", file=sys.stderr
            )
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"mmrag {__version__}")
        raise typer.Exit


@app.command(epilog="Example: mmrag ingest ./manuals products.jsonl --index ./kb")
def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders of pictures or HTML; JSONL, JSON (LLaVA's too), CSV or Parquet manifests; "
            "WebDataset tars; PDFs.",
        ),
    ],
    index: IndexDir = DEFAULT_INDEX,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune", help="Delete documents that a SOURCE held and holds no more, or that is gone itself."
        ),
    ] = False,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Try again what was refused, though it did not change.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Make the index anew beside the live one, also with other models, then swap them.",
        ),
    ] = False,
    skip_locked: Annotated[
        bool,
        typer.Option(
            "--skip-locked", help="Do nothing, with exit status 0, while another process writes the index."
        ),
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Bring an index up to date with its sources. What did not change is not done again."""
    settings = effective_settings(config, assignments)
    how = {"prune": prune, "retry_rejected": retry_rejected, "rebuild": rebuild}
    if dry_run:
        _dry_run(sources, index, settings, how, as_json)
        return
    from pipelines.console import print_summary, progress_bar
    from pipelines.ingest.job import ingest as run_job

    # Ray and the models' packages may print on stdout, which is the result's.
    with _leaving_locked(skip_locked, as_json), progress_bar() as progress, redirect_stdout(sys.stderr):
        summary = run_job(sources, index, settings.index, settings.ingest, progress, **how)
    if as_json:
        print_json(summary.as_dict())
    else:
        print_summary(summary, index)
    if summary.rejected or summary.known_rejected:
        raise typer.Exit(REFUSED_ROWS)


@contextmanager
def _leaving_locked(skip: bool, as_json: bool) -> Iterator[None]:
    """With `skip`, an index that another process writes ends the command well. A store's own lock does not:
    it is met in the midst of the work."""
    try:
        yield
    except IndexLocked as exc:
        if not skip or isinstance(exc, StoreLocked):
            raise
        print(f"mmrag: nothing was ingested: {exc}", file=sys.stderr)
        if as_json:
            print_json({"skipped": str(exc)})
        raise typer.Exit from exc


def _dry_run(
    sources: list[str], index: Path, settings: Settings, how: dict[str, bool], as_json: bool
) -> None:
    from pipelines.console import print_dry_run
    from pipelines.ingest.dry_run import dry_run

    with redirect_stdout(sys.stderr):
        would = dry_run(sources, index, settings.index, settings.ingest, **how)
    if as_json:
        print_json(would.as_dict())
    else:
        print_dry_run(would)


@app.command(epilog="Example: mmrag search '散热器的孔距' --filter 'year >= 2020' -k 5")
def search(
    text: Annotated[str | None, typer.Argument(help="The question, in Chinese or English.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture to search with.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="auto, text, image or visually_similar.")] = "auto",
    where: Annotated[
        str | None, typer.Option("--filter", help='For example: product_id == "A1" and year >= 2020')
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 10,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Find pictures and passages by text, by a picture, or by both."""
    settings = effective_settings(config, assignments)
    from pipelines.console import print_hits
    from pipelines.core.index import Index
    from pipelines.core.types import result_dict

    with Index(index, settings.index) as opened:
        query = question_query(text, image, mode, where, k, opened.manifest().metadata_types)
        try:
            result = opened.retriever(settings.search).search(query)
        except BadImage as exc:
            raise UsageError(f"--image {image}: {exc}") from exc
    if as_json:
        print_json(result_dict(result))
    else:
        print_hits(result)


@app.command(epilog="Example: mmrag delete AC-120 --index ./kb")
def delete(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Document ids.")],
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant's documents.")] = None,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Delete documents, with their pictures and chunks, from every store."""
    settings = effective_settings(config, assignments)
    from pipelines.core.index import Index
    from pipelines.ingest.removal import delete_documents

    with Index(index, settings.index, writable=True) as opened:
        deleted, unknown = delete_documents(opened, ids, tenant)
    shared = deleted > len(set(ids) - set(unknown))
    hint = ": more than one tenant had such an id; --tenant deletes those of one" if shared else ""
    print(f"deleted {deleted} documents{hint}", file=sys.stderr)
    if unknown:
        raise UsageError(f"no such document: {', '.join(unknown)}")


@app.command(epilog="Example: mmrag status --index ./kb --json")
def status(
    index: IndexDir = DEFAULT_INDEX,
    recall: Annotated[
        bool,
        typer.Option("--recall", help="Measure recall@10 against an exact search, which reads all."),
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """What an index holds, its last runs, and whether its stores agree with its ledger."""
    settings = effective_settings(config, assignments)
    from pipelines.console import print_status
    from pipelines.core.index import Index
    from pipelines.ingest import status as found

    with Index(index, settings.index) as opened:
        described = found.index_status(opened)
        if recall:
            described["recall"] = found.recall(opened, described["stores"])
    if as_json:
        print_json(described)
    else:
        print_status(described)


@app.command(epilog="Example: mmrag demo --out ./demo")
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the corpus, its index and the report go.")] = Path(
        "demo"
    ),
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Draw a small bilingual corpus, ingest it, search it, ask a server of it, and write a report."""
    settings = effective_settings(config, assignments)
    from pipelines.demo.run import run_demo

    options = [word for assignment in assignments or () for word in ("--set", assignment)]
    run_demo(out, settings, [*options, *(["--config", str(config)] if config else [])])
