"""The command lines of a shell script, read by the program that they are for. None is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from doc_blocks import ROOT
from typer.core import TyperGroup
from typer.main import get_command

from pipelines.cli import app
from pipelines.settings import PROFILES, load_settings

_VARIABLE = re.compile(r"[A-Za-z_]\w*=")


def commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a script, without what they read and where they write."""
    script = re.sub(r"<<('?)EOF\1\n.*?\nEOF\n", "\n", script, flags=re.DOTALL)
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = iter(lexer)
        for token in tokens:
            if set(token) <= set("<>"):
                next(tokens, None)
            elif set(token) <= set("|&;"):
                yield words
                words = []
            else:
                words.append(token)
        yield words


def check(words: list[str]) -> None:
    """Raise for a command, an option, a setting or a file that there is not; other programs are not read."""
    match words:
        case [variable, *command] if _VARIABLE.match(variable):
            check(command)
        case ["ray", "exec", _, script]:
            for command in commands(script):
                check(command)
        case ["mmrag", *arguments]:
            given = parsed(arguments)
            config, assignments = given.get("config"), given.get("assignments") or []
            known = config and (Path(config).is_file() or (PROFILES / f"{config}.yaml").is_file())
            load_settings(config if known else None, assignments)
        case ["make", *targets]:
            known = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            assert {target for target in targets if "=" not in target} <= set(known)
        case ["python", "-m", module, *_]:
            assert find_spec(module), module
        case ["python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file(), script


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the innermost command is given. Raises for a command, an option or a value that there is not."""
    command: Any = get_command(app)
    context = command.make_context("mmrag", list(arguments))
    while isinstance(command, TyperGroup):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return dict(context.params)
