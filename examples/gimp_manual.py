"""Fetch the GIMP manual in English and Chinese, ingest it, and search its pictures in both languages.

    python examples/gimp_manual.py WORK            fetch, ingest, eight example searches
    python examples/gimp_manual.py WORK --check    also ask the 40 questions beside this file

Needs a Debian-like system with its package lists (`apt-get update`), about 350 MB in WORK, and no
root: the packages are unpacked, not installed. The manual is under the GNU Free Documentation
License. Everything is done with the `mmrag` command; nothing of mmrag is imported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# Language -> package, and the manual's folder in it.
MANUALS = {
    "en": ("gimp-help-en", "usr/share/gimp/2.0/help/en"),
    "zh": ("gimp-help-zh-cn", "usr/share/gimp/2.0/help/zh_CN"),
}
EXAMPLES = (
    "Which options does the crop tool have?",
    "Turn a photo into a jigsaw puzzle",
    "drawing of a Bézier curve with its control points and handles",
    "the dialog for making an image larger or smaller",
    "油漆桶填充工具在工具箱里的图标",
    "GIMP 2.4 的工具箱换了新图标以后是什么样子？",
    "红、绿、蓝三种色光叠加会得到什么颜色？",
    "怎样准备一张用在网页上的图片？",
)
QUESTIONS = Path(__file__).with_name("gimp_manual_questions.json")
DONE, DONE_WITH_REJECTED_ROWS = 0, 3

console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", type=Path, help="a folder for the manuals and the index")
    parser.add_argument("--check", action="store_true", help=f"ask the questions of {QUESTIONS.name}")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="passed on to mmrag")
    arguments = parser.parse_args()
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    index = arguments.work / "index"

    manuals = [fetch(language, arguments.work) for language in MANUALS]
    summary = mmrag("ingest", *map(str, manuals), "--index", str(index), *settings)
    console.print_json(data=summary)
    for text in EXAMPLES:
        show(text, search(text, index, 5, settings))
    if arguments.check:
        check(index, settings)


def fetch(language: str, work: Path) -> Path:
    """The manual's folder below `work`, from the Debian package if it is not there yet."""
    manual = work / language
    if manual.is_dir():
        return manual
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            sys.exit(
                f"{program} is not here: this example needs a Debian-like system "
                f"(or put the manual's HTML into {manual} yourself)"
            )
    package, below = MANUALS[language]
    unpacked = work / "unpacked" / package
    shutil.rmtree(unpacked, ignore_errors=True)  # of a run that was cut short
    unpacked.mkdir(parents=True)
    console.print(f"fetching {package} (50 MB)")
    if subprocess.run(["apt-get", "download", "-q", package], cwd=unpacked).returncode:
        sys.exit(f"apt-get could not fetch {package}: is there a network, and has `apt-get update` been run?")
    [archive] = unpacked.glob(f"{package}_*.deb")
    subprocess.run(["dpkg", "-x", archive.name, "."], cwd=unpacked, check=True)
    (unpacked / below).rename(manual)
    shutil.rmtree(unpacked.parent)
    return manual


def mmrag(*words: str) -> dict[str, Any]:
    """The JSON object that the command prints; its progress goes to this terminal."""
    command = Path(sys.executable).with_name("mmrag")
    program = str(command) if command.exists() else "mmrag"
    done = subprocess.run([program, *words, "--json"], stdout=subprocess.PIPE, text=True, encoding="utf-8")
    if done.returncode not in (DONE, DONE_WITH_REJECTED_ROWS):
        sys.exit(f"`mmrag {words[0]}` failed with status {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def search(text: str, index: Path, k: int, settings: list[str]) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = mmrag("search", text, "--index", str(index), "-k", str(k), *settings)["hits"]
    return hits


def show(text: str, hits: list[dict[str, Any]]) -> None:
    table = Table("rank", "kind", "text", "document", "branches", title=text, title_justify="left")
    for rank, hit in enumerate(hits, start=1):
        branches = ", ".join(f"{branch} {place}" for branch, place in hit["sources"].items())
        table.add_row(str(rank), hit["kind"], hit["text"][:100], hit["document_id"], branches)
    console.print(table)


def check(index: Path, settings: list[str]) -> None:
    """The share of questions with a right picture among the first 1, 5 and 10 hits."""
    questions = json.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]
    ranks: dict[str, list[int | None]] = {language: [] for language in MANUALS}
    missed = Table("language", "question", "expected one of", title="Not among the first 10")
    for question in questions:
        hits = search(question["question"], index, 10, settings)
        right = [rank for rank, hit in enumerate(hits, start=1) if is_right(hit, question["pictures"])]
        ranks[question["language"]].append(min(right, default=None))
        if not right:
            missed.add_row(question["language"], question["question"], ", ".join(question["pictures"]))
    console.print(missed)
    table = Table("language", "questions", "R@1", "R@5", "R@10")
    for language, found in ranks.items():
        at = [sum(rank is not None and rank <= k for rank in found) / len(found) for k in (1, 5, 10)]
        table.add_row(language, str(len(found)), *(f"{share:.2f}" for share in at))
    console.print(table)


def is_right(hit: dict[str, Any], pictures: list[str]) -> bool:
    return hit["kind"] == "image" and any(hit["source"].endswith(f"/images/{name}") for name in pictures)


if __name__ == "__main__":
    main()
