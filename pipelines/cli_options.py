"""What the commands share: options, the effective settings, and results on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipelines.settings import Settings

REFUSED_ROWS = 3
"""Exit status: done, with rows that were refused and written down."""

ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file of settings.")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="One setting, such as encoder.kind=clip. Repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def effective_settings(config: Path | None, assignments: list[str] | None) -> Settings:
    from pipelines.settings import load_settings

    return load_settings(config, assignments or ())


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False))
