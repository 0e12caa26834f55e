"""What the commands share: options, the effective settings, and results on stdout."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pipelines.core.addresses import index_directory
from pipelines.core.errors import UsageError

if TYPE_CHECKING:
    from pipelines.core.retriever import Query
    from pipelines.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., None])

REFUSED_ROWS = 3
"""Exit status: done, with rows that were refused and written down."""

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="A YAML file of settings, or local, server or cluster.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as encoder.kind=clip. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


IndexDir = Annotated[Path, typer.Option("--index", help="The index directory.", callback=index_directory)]
DEFAULT_INDEX = Path("mmrag-index")


def flowing(command: _Command) -> _Command:
    """A command whose help breaks its lines where the terminal ends: of paragraphs after the first, typer
    keeps the docstring's own line ends."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    command.__doc__ = "\n\n".join(" ".join(paragraph.splitlines()) for paragraph in paragraphs)
    return command


def effective_settings(config: Path | None, assignments: list[str] | None) -> Settings:
    from pipelines.settings import load_settings

    return load_settings(config, assignments or ())


def print_json(value: Any, *, allow_nan: bool = True) -> None:
    """Without `allow_nan` it is JSON as all read it: raises ValueError for NaN and Infinity."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=allow_nan))


def question_query(
    text: str | None,
    image: Path | None,
    mode: str,
    where: str | None,
    k: int,
    types: Mapping[str, str] | None,
) -> Query:
    """The query of `search` and `ask`. Raises UsageError for a wrong mode, filter or file, and for a
    query that makes no sense. `types`: of the index's fields; None: whoever answers knows them."""
    from pipelines.core import filters
    from pipelines.core.errors import BadImage
    from pipelines.core.picture_files import read_named
    from pipelines.core.retriever import MODES, Query, plan

    if mode not in MODES:
        raise UsageError(f"--mode {mode!r}: choose one of {', '.join(MODES)}")
    parsed = filters.parse(where) if where is not None else None
    if parsed is not None and types is not None:
        filters.check(parsed, types)
    try:
        picture = read_named(image) if image else None
    except BadImage as exc:
        raise UsageError(f"--image {exc}") from exc
    query = Query(text, picture, mode, k, parsed)
    plan(query)
    return query
