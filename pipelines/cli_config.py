"""`mmrag config`: what the settings are, and whether all that they name is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

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

app = typer.Typer(help="See the settings, and check all that they name.", no_args_is_help=True)


@app.command(epilog="Example: mmrag config show --config mine.yaml --set encoder.kind=clip")
def show(config: ConfigFile = None, assignments: Assignments = None, as_json: AsJson = False) -> None:
    """Print every setting as YAML, secrets hidden; those that were set say where."""
    settings = effective_settings(config, assignments)
    from pipelines.settings import origins, shown

    body, where = shown(settings), origins(config, assignments or ())
    if as_json:
        print_json({"settings": body, "origins": where})
    else:
        print("\n".join(_lines(body, where)))


@app.command(epilog="Example: mmrag config check --config mine.yaml --index ./kb")
def check(
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Check stores, models, memory, index, Ray and disk. Changes, starts and fetches nothing.

    Exit status 1: something has a problem.
    """
    settings = effective_settings(config, assignments)
    from pipelines.checks import Check, run_checks
    from pipelines.settings import origins

    named = len(origins(config, assignments or ()))
    checks = [Check("settings", True, f"valid; {named} of them set, see mmrag config show")]
    if not as_json:
        _print(checks[0])
    for one in run_checks(settings, index):
        checks.append(one)
        if not as_json:
            _print(one)
    ok = all(one.ok for one in checks)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(one) for one in checks]})
    if not ok:
        raise typer.Exit(1)


def _print(check: Any) -> None:
    print(f"{'ok' if check.ok else 'problem':8}{check.part:10}{check.detail}", flush=True)


def _lines(tree: Mapping[str, Any], origins: Mapping[str, str], above: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name, indent = f"{above}{key}", "  " * above.count(".")
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_yaml(key)}:"
            yield from _lines(value, origins, f"{name}.")
        else:
            origin = f"  # {origins[name]}" if name in origins else ""
            yield f"{indent}{_yaml(key)}: {_yaml(value)}{origin}"


def _yaml(value: Any) -> str:
    """On one line."""
    import yaml

    text: str = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.strip()[1:-1]
