"""The commands that answer: `mmrag serve` and `mmrag ask`, and the application for `serve deploy`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from pipelines.core.addresses import index_directory
from pipelines.core.errors import BadImage, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from pipelines.core.retriever import Query
    from pipelines.serve.deployments import Parts
    from pipelines.settings import Settings


def serve(
    host: Annotated[str | None, typer.Option("--host", help="Default: 127.0.0.1, this machine only.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Default: 8000; 0: any free one.")] = None,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Answer questions over HTTP, with a page at /, until Ctrl-C. Ready when /healthz says 200."""
    settings = effective_settings(config, [*(assignments or ()), *_chosen(host, port)])
    from pipelines.serve.protection import access, stands_open

    if stands_open(settings.serve):
        print(access(settings.serve), file=sys.stderr)
    parts = served_parts(settings, index)
    from pipelines.serve.app import run

    with _announced(parts.index_dir, settings.answers_by()) as announce:
        run(parts, announce)


def _chosen(host: str | None, port: int | None) -> list[str]:
    """As assignments. Values are JSON, which YAML reads as they are: plain `::` would be a mapping."""
    chosen = {"serve.host": host, "serve.port": port}
    return [f"{name}={json.dumps(value)}" for name, value in chosen.items() if value is not None]


def application(args: dict[str, str]) -> Any:
    """For `serve deploy`: import_path `pipelines.cli_serve:application`, args `index` and `config`."""
    config = Path(args["config"]) if "config" in args else None
    index = index_directory(args.get("index", DEFAULT_INDEX))
    parts = served_parts(effective_settings(config, None), index)
    from pipelines.serve.app import application as build

    return build(parts)


def served_parts(settings: Settings, index: Path) -> Parts:
    """Raises UsageError where there is no index, or no model to answer with."""
    from pipelines.core.generator import load_profile
    from pipelines.core.manifest import Manifest

    Manifest.load(index)
    load_profile(settings.generator)
    from pipelines.serve.deployments import Parts  # Ray, which takes seconds

    return Parts(
        index.absolute(), settings.index, settings.search, settings.answer, settings.generator, settings.serve
    )


def ask(
    text: Annotated[str | None, typer.Argument(help="The question, in Chinese or English.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="A picture to ask about.")] = None,
    mode: Annotated[str, typer.Option("--mode", help="auto, text, image or visually_similar.")] = "auto",
    where: Annotated[str | None, typer.Option("--filter", help="Of the evidence, as in search.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many hits to answer from, at most.")] = 10,
    annotate: Annotated[
        Path | None, typer.Option("--annotate", help="Write the picture with the answer's boxes here.")
    ] = None,
    batch: Annotated[
        Path | None, typer.Option("--batch", help="Answer each line of this JSONL file instead, into --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The Parquet file of --batch's answers.")] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Ask the server there, as `serve deploy` makes one, with the key of $MMRAG_API_KEY.",
        ),
    ] = None,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the index, with citations and boxes. Uses a running `mmrag serve` of it."""
    asks_there = server is not None
    if asks_there and (batch or out or config or assignments):
        raise UsageError(
            "--server answers one question, by its own settings: leave --batch, --config and --set out"
        )
    settings = effective_settings(config, assignments)
    if batch or out:
        if not (batch and out) or text or image or annotate:
            raise UsageError("--batch FILE and --out FILE go together, and without a question")
        if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
            raise UsageError(f"--out {out}: wanted the name of a file in a folder that this user writes")
        _ask_batch(served_parts(settings, index), batch, out, as_json)
        return
    from pipelines.console import print_answer
    from pipelines.core.manifest import Manifest

    # A server elsewhere knows the fields of its index.
    types = None if asks_there else Manifest.load(index).metadata_types
    query = question_query(text, image, mode, where, k, types)
    try:
        if server is not None:
            answer = _ask_elsewhere(server, query, where, annotate is not None)
        elif address := _served(index, settings, chosen=bool(config or assignments)):
            answer = _ask_server(address, query, where)
        else:
            answer = _ask_here(index, settings, query)
    except BadImage as exc:
        raise UsageError(f"--image {image}: {exc}") from exc
    drawn = answer.pop("annotated", None)
    print_json(answer) if as_json else print_answer(answer)
    if annotate:
        from pipelines.core.previews import annotated_pictures

        here = annotated_pictures(answer, query.image, index / "previews")
        _annotate(annotate, answer, here if drawn is None else _drawn_there(answer, drawn))


def _ask_batch(parts: Parts, questions: Path, out: Path, as_json: bool) -> None:
    from contextlib import redirect_stdout
    from dataclasses import asdict

    from pipelines.console import progress_bar
    from pipelines.serve.batch import answer_batch

    with progress_bar() as progress, redirect_stdout(sys.stderr):
        summary = asdict(answer_batch(parts, questions, out, progress))
    if as_json:
        print_json(summary)
    else:
        print(", ".join(f"{count:,} {what}" for what, count in summary.items()) + f": {out}")
    if summary["failed"]:
        raise typer.Exit(REFUSED_ROWS)


def _ask_here(index: Path, settings: Settings, query: Query) -> dict[str, Any]:
    import asyncio
    from contextlib import redirect_stdout

    from pipelines.core.answer import Question
    from pipelines.core.index import Index
    from pipelines.core.types import answer_dict
    from pipelines.knowledge_base import local_answerer

    with Index(index, settings.index) as opened, redirect_stdout(sys.stderr):
        answerer = local_answerer(opened, opened.retriever(settings.search), settings)
        print("no server of this index and these settings is up: the model answers here", file=sys.stderr)
        return answer_dict(asyncio.run(answerer.answer(Question(query))))


def _ask_server(
    address: str, query: Query, where: str | None, *, annotate: bool = False, proxied: bool = False
) -> dict[str, Any]:
    from pipelines.serve.client import ask as ask_server

    body = {"query": query.text, "mode": query.mode, "k": query.k, "filter": where, "annotate": annotate}
    return ask_server(address, body, query.image, os.environ.get("MMRAG_API_KEY", ""), proxied=proxied)


def _ask_elsewhere(url: str, query: Query, where: str | None, annotate: bool) -> dict[str, Any]:
    """Its pictures are there: with `annotate`, `annotated` has those that it marked."""
    from pipelines.core.addresses import is_here
    from pipelines.serve.client import elsewhere

    address = elsewhere(url)
    return _ask_server(address, query, where, annotate=annotate, proxied=not is_here(address))


@contextmanager
def _announced(index: Path, settings: str) -> Iterator[Any]:
    """Yields what tells the address to the user and, by a file, to `mmrag ask`."""
    from pipelines.serve.client import announce, announced, withdraw

    before = None

    def tell(address: str) -> None:
        nonlocal before
        before = announced(index)
        announce(index, address, settings)
        print(f"ready: {address}  (Ctrl-C ends it)", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        withdraw(index, before)


def _served(index: Path, settings: Settings, *, chosen: bool) -> str | None:
    """The address of a server of this index that is up, and of this machine; where settings were `chosen`,
    only of one that answers by them."""
    from pipelines.serve.client import announced, answers

    told = announced(index)
    if told is None or not answers(told.address):
        return None
    if told.settings != settings.answers_by():
        if chosen:
            return None
        print(f"{told.address} answers, by settings of its own", file=sys.stderr)
    return told.address


def _drawn_there(answer: dict[str, Any], drawn: list[dict[str, Any]]) -> Iterator[tuple[Any, Image | None]]:
    """As `annotated_pictures`, of what a server drew."""
    from pipelines.core.images import MAX_BYTES, decode
    from pipelines.serve.pictures import read_data_uri

    uris = {one["image"]: one["data_uri"] for one in drawn}
    for shown in dict.fromkeys(box["image"] for box in answer["boxes"]):
        yield shown, decode(read_data_uri(uris[shown], MAX_BYTES)).image if shown in uris else None


def _annotate(out: Path, answer: dict[str, Any], pictures: Iterator[tuple[Any, Image | None]]) -> None:
    """Each picture that has boxes, with them: OUT, and OUT-2 and so on where there are more."""
    if not answer["boxes"]:
        print(f"the answer marks nothing: {out} is not written", file=sys.stderr)
    for number, (shown, picture) in enumerate(pictures, start=1):
        file = out if number == 1 else out.with_stem(f"{out.stem}-{number}")
        if picture is None:
            raise UsageError(f"--annotate: the index no longer has the picture of [{shown}]")
        try:
            picture.save(file)
        except (OSError, ValueError) as exc:
            raise UsageError(f"--annotate {file}: {exc}") from exc
        print(
            f"{file}: {'the picture asked about' if shown == 'query' else f'evidence [{shown}]'}",
            file=sys.stderr,
        )
