"""The fenced blocks of a Markdown page, and what each is marked with in the comment above it.

A block of commands (`sh`, `python`) is run by tests/ray/test_docs_commands.py unless it is marked:

    <!-- not run: REASON -->             it cannot be run here
    <!-- run by: FILE::TEST -->          that test gives the same command
    <!-- tested by: FILE::TEST -->       that test does the same work on data of its own
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMANDS = ("sh", "python")
MARKS = ("not run", "run by", "tested by")
READ = (
    "tutorial",
    "how-to/from-python",
    "how-to/own-corpus",
    "how-to/own-models",
    "how-to/fine-tune",
    "how-to/evaluate",
    "how-to/scale-out",
    "how-to/secure",
    "how-to/operate",
)
"""The pages whose commands are run, in the order in which they are read: one may use what another made."""

_FENCE = re.compile(r"```(\S*)")
_MARK = re.compile(r"<!-- ([a-z ]+): (.+) -->")


@dataclass(frozen=True)
class Block:
    """`mark` and `says` are empty where it is not marked."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    says: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    found, opened, inside = [], None, []
    lines = page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.fullmatch(line)
        if opened is None and fence:
            opened, inside = (number, fence[1]), []
        elif opened is not None and line == "```":
            mark = _MARK.fullmatch(lines[opened[0] - 2])
            text = "\n".join(inside) + "\n"
            found.append(Block(page, *opened, text, *(mark.groups() if mark else ("", ""))))
            opened = None
        elif opened is not None:
            inside.append(line)
    assert opened is None, f"{page}: a block is not closed"
    return found


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in COMMANDS and not block.mark]
