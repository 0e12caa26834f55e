"""`mmrag train`: settings in, one training job out. Imports a job only when it runs."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_options import (
    REFUSED_ROWS,
    AsJson,
    Assignments,
    ConfigFile,
    effective_settings,
    print_json,
)
from pipelines.core.errors import UsageError

if TYPE_CHECKING:
    from pipelines.train.llava_config import LlavaTraining
    from pipelines.train.llava_export import Kind


class Export(StrEnum):
    """What `--export` writes."""

    ADAPTER = "adapter"
    MERGED = "merged"


app = typer.Typer(help="Train a part of the system on your own data.", no_args_is_help=True)


@app.command("encoder", epilog="Example: mmrag train encoder --data pairs.jsonl --out ./my-encoder")
def train_encoder(
    data: Annotated[Path, typer.Option("--data", help="JSONL of pictures and their texts.")],
    out: Annotated[Path, typer.Option("--out", help="Where the trained encoder goes.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Train the heads of the `lite` encoder on (picture, texts) pairs."""
    settings = effective_settings(config, assignments)
    from pipelines.console import progress_bar
    from pipelines.train.job import train_encoder as run_job

    with progress_bar() as progress, redirect_stdout(sys.stderr):
        summary = run_job(data, out, settings.train.encoder, progress)
    print_json(summary) if as_json else print(json.dumps(summary, indent=1, ensure_ascii=False))


@app.command("aligner", epilog="Example: mmrag train aligner --data index:./mmrag-index --out ./my-aligner")
def train_aligner(
    data: Annotated[
        str,
        typer.Option(
            "--data", help="JSONL of pictures and their texts, or index:DIR: all tenants' of an index."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the trained aligner goes.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Train the aligner, which reorders the pictures that a text found, on (picture, texts) pairs."""
    settings = effective_settings(config, assignments)
    from pipelines.console import progress_bar
    from pipelines.train.aligner_job import train_aligner as run_job

    with progress_bar() as progress, redirect_stdout(sys.stderr):
        summary = run_job(data, out, settings.train.aligner, settings.index, progress)
    print_json(summary) if as_json else print(json.dumps(summary, indent=1, ensure_ascii=False))


@app.command(
    "llava",
    epilog="Example: mmrag train llava --data examples.jsonl --out ./mine --export merged "
    "--set train.llava.base_model=llava-hf/llava-1.5-7b-hf --set train.llava.use_gpu=true",
)
def train_llava(
    data: Annotated[
        Path, typer.Option("--data", help="LLaVA conversations or OpenAI messages, JSON or JSONL.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the run goes; one that is there is taken up again.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only look at the data: bad rows, token lengths, boxes.")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="Only try one step: does it fit into memory, and what would?")
    ] = False,
    export: Annotated[
        Export | None, typer.Option("--export", help="Then write OUT/adapter or OUT/merged, for vLLM.")
    ] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a LLaVA on your own conversations, with LoRA."""
    settings = effective_settings(config, assignments).train.llava
    if check:
        _check(data, settings, as_json)
    elif fit:
        _fit(settings, as_json)
    else:
        _train(data, _wanted(out), settings, export, as_json)


def _wanted(out: Path | None) -> Path:
    if out is None:
        raise UsageError("--out: name the directory that the run goes to")
    return out


def _check(data: Path, settings: LlavaTraining, as_json: bool) -> None:
    from rich import print as rich_print

    from pipelines.train.llava_batch import load_processor
    from pipelines.train.llava_check import check
    from pipelines.train.llava_model import base_directory, in_own_frame

    processor = None
    if settings.base_model:
        base = base_directory(settings.base_model)
        processor, settings = load_processor(base), in_own_frame(settings, base)
    report = check(data, settings.image_root, processor, settings.frame, settings.max_tokens)
    print_json(report.as_dict()) if as_json else rich_print(report)
    if report.bad:
        raise typer.Exit(REFUSED_ROWS)


def _fit(settings: LlavaTraining, as_json: bool) -> None:
    from pipelines.train.llava_fit import fit_report

    report = fit_report(settings)
    print_json(report.as_dict()) if as_json else print("\n".join(report.lines()))


def _train(data: Path, out: Path, settings: LlavaTraining, export: Export | None, as_json: bool) -> None:
    from pipelines.console import progress_bar
    from pipelines.train.llava_export import export_llava
    from pipelines.train.llava_job import train_llava as run_job

    kind: Kind | None = export.value if export else None
    with progress_bar() as progress, redirect_stdout(sys.stderr):
        summary: dict[str, Any] = run_job(data, out, settings, progress, kind).as_dict()
    try:
        if kind:
            exported = export_llava(Path(summary["checkpoint"]), out / kind, kind, replace=True)
            summary["export"] = str(exported.directory)
            for warning in exported.warnings:
                print(f"mmrag: {warning}", file=sys.stderr)
    finally:  # where the export fails, too: the training is done and saved
        print_json(summary) if as_json else print(json.dumps(summary, indent=1, ensure_ascii=False))
    if summary["rejected"]:
        raise typer.Exit(REFUSED_ROWS)
