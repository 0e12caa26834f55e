"""Write the data that `tiny-llava` is trained and judged on.

    python -m benchmarks.tiny_llava.make --out DIR

DIR/train.jsonl           LLaVA conversations for `mmrag train llava`
DIR/train-text.jsonl      those of them without a picture, to begin with
DIR/held-out/TASK.jsonl   one question a row, for evaluate.py
DIR/pictures/             of both

Everything is drawn here but easy-VQA's pictures, which pip fetches once. The same seed gives the same rows,
on any number of processes. What is held out, and by which rule, is in split.py. Knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.data.easy_vqa import fetch_data
from benchmarks.tiny_llava import easy_vqa, evidence, shapes, sheet_talk, sheets
from benchmarks.tiny_llava.split import Language, Part, generator, row

HELD_OUT = "held-out"
# Rows to train on; with easy-VQA's the whole is about 129,000.
COUNTS = {
    "sheets": 24_000,
    "shapes": 22_000,
    "evidence": 16_000,
    "evidence-sheets": 42_000,
    "query-sheets": 16_000,
}
HELD_OUT_ROWS = 500
# In a language that is not the sheet's own.
_ACROSS = 0.15
# Of the questions over evidence. With equal shares the model refused too little in Chinese.
_UNANSWERABLE: dict[Language, float] = {"en": 0.4, "zh": 0.45}
# Two are mistaken for each other, and more rows of them did not mend that.
_TWO_PICTURES = 0.2
_BLOCK = 500


def sheet_row(seed: int, part: Part, out: Path, number: int) -> dict[str, Any]:
    """A sheet with seven or eight questions, one without an answer, every other time a description."""
    rng = generator(seed, "sheets", part, number)
    language = _language(number)
    sheet = sheets.random_sheet(rng, part, language)
    drawn = sheets.draw(sheet, sheets.TRAINED_LAYOUTS[rng.randrange(len(sheets.TRAINED_LAYOUTS))], rng)
    spoken: Language = language if rng.random() >= _ACROSS else ("en" if language == "zh" else "zh")
    asked = sheet_talk.values(sheet, rng, part, spoken)[: rng.choice((2, 3))]
    asked += [sheet_talk.value_box(sheet, drawn, rng, part, spoken) for _ in range(2)]
    asked.append(sheet_talk.drawing_box(drawn, rng, part, spoken))
    asked.append(rng.choice((sheet_talk.model, sheet_talk.kind))(sheet, rng, part, spoken))
    asked.append(sheet_talk.missing(sheet, rng, part, spoken))
    rng.shuffle(asked)
    if rng.random() < 0.5:
        # First or last: after questions it could copy their answers, before them they could copy it.
        asked.insert(rng.choice((0, len(asked))), sheet_talk.description(sheet, rng, part, language))
    return row(f"sheet-{number}", [_save(drawn.image, out, "sheets", part, number)], asked)


def shapes_row(seed: int, part: Part, out: Path, number: int) -> dict[str, Any]:
    rng = generator(seed, "shapes", part, number)
    image, placed = shapes.scene(rng, part)
    language = _language(number)
    asked = shapes.boxes(placed, rng, part, language) + shapes.others(placed, rng, part, language)[:2]
    rng.shuffle(asked)
    return row(f"shapes-{number}", [_save(image, out, "shapes", part, number)], asked)


def evidence_row(seed: int, part: Part, out: Path, number: int) -> dict[str, Any]:
    rng = generator(seed, "evidence", part, number)
    language = _language(number)
    return row(f"evidence-{number}", [], evidence.asked(rng, part, language, _answerable(rng, 6, language)))


def evidence_sheets_row(seed: int, part: Part, out: Path, number: int) -> dict[str, Any]:
    """Of one picture, or of two."""
    rng = generator(seed, "evidence-sheets", part, number)
    language = _language(number)
    shown = [_sheet(rng, part, language) for _ in range(1 + (rng.random() < _TWO_PICTURES))]
    asked = evidence.asked_of_sheets(shown, rng, part, language, _answerable(rng, 4, language))
    pictures = _save_all(shown, out, "evidence-sheets", part, number)
    return row(f"evidence-sheets-{number}", pictures, asked)


def query_sheet_row(seed: int, part: Part, out: Path, number: int) -> dict[str, Any]:
    rng = generator(seed, "query-sheets", part, number)
    language = _language(number)
    drawn = _sheet(rng, part, language)
    asked = evidence.asked_with_sheet(drawn, rng, part, language, _answerable(rng, 4, language))
    return row(f"query-sheet-{number}", _save_all([drawn], out, "query-sheets", part, number), asked)


TRAINED = {
    "sheets": sheet_row,
    "shapes": shapes_row,
    "evidence": evidence_row,
    "evidence-sheets": evidence_sheets_row,
    "query-sheets": query_sheet_row,
}


def tested_sheet(
    layouts: tuple[str, ...], language: Language, seed: int, out: Path, number: int
) -> dict[str, Any]:
    task = f"sheets-{language}" if layouts == sheets.TRAINED_LAYOUTS else f"new-layouts-{language}"
    rng = generator(seed, task, "test", number)
    sheet = sheets.random_sheet(rng, "test", language)
    drawn = sheets.draw(sheet, rng.choice(layouts), rng)
    asked = sheet_talk.values(sheet, rng, "test", language)[0]
    return row(f"{task}-{number}", [_save(drawn.image, out, task, "test", number)], [asked])


def tested_box(kind: str, seed: int, out: Path, number: int) -> dict[str, Any]:
    rng = generator(seed, f"boxes-{kind}", "test", number)
    language = _language(number)
    if kind == "shapes":
        image, placed = shapes.scene(rng, "test")
        asked = shapes.boxes(placed, rng, "test", language)[0]
    else:
        drawn = _sheet(rng, "test", language)
        image = drawn.image
        if kind == "drawings":
            asked = sheet_talk.drawing_box(drawn, rng, "test", language)
        else:
            asked = sheet_talk.value_box(drawn.sheet, drawn, rng, "test", language)
    picture = _save(image, out, f"boxes-{kind}", "test", number)
    return row(f"boxes-{kind}-{number}", [picture], [asked])


def tested_evidence(
    shows: str, answerable: bool, language: Language, seed: int, out: Path, number: int
) -> dict[str, Any]:
    """`shows`: "text" alone, a "picture" of the evidence, "two" of them, or the "query"'s own."""
    task = f"evidence-{shows}-{'answer' if answerable else 'none'}-{language}"
    rng = generator(seed, task, "test", number)
    shown = [_sheet(rng, "test", language) for _ in range({"text": 0, "two": 2}.get(shows, 1))]
    if shows == "query":
        asked = evidence.asked_with_sheet(shown[0], rng, "test", language, [answerable])
    elif shown:
        asked = evidence.asked_of_sheets(shown, rng, "test", language, [answerable])
    else:
        asked = evidence.asked(rng, "test", language, [answerable])
    return row(f"{task}-{number}", _save_all(shown, out, task, "test", number), asked)


def tested_description(seed: int, out: Path, number: int) -> dict[str, Any]:
    rng = generator(seed, "describe", "test", number)
    language = _language(number)
    drawn = _sheet(rng, "test", language)
    asked = sheet_talk.description(drawn.sheet, rng, "test", language)
    return row(f"describe-{number}", [_save(drawn.image, out, "describe", "test", number)], [asked])


def held_out_tasks() -> dict[str, Callable[..., dict[str, Any]]]:
    """By the name of the file; called with seed, folder and the row's number."""
    found: dict[str, Callable[..., dict[str, Any]]] = {"describe": tested_description}
    languages: tuple[Language, ...] = ("en", "zh")
    for language in languages:
        found[f"sheets-{language}"] = partial(tested_sheet, sheets.TRAINED_LAYOUTS, language)
        found[f"new-layouts-{language}"] = partial(tested_sheet, sheets.NEW_LAYOUTS, language)
        for shows in ("text", "picture", "two", "query"):
            for answerable in (True, False):
                task = f"evidence-{shows}-{'answer' if answerable else 'none'}-{language}"
                found[task] = partial(tested_evidence, shows, answerable, language)
    for kind in ("shapes", "drawings", "values"):
        found[f"boxes-{kind}"] = partial(tested_box, kind)
    return found


def _answerable(rng: random.Random, questions: int, language: Language) -> list[bool]:
    """Which of a conversation's questions the evidence answers."""
    return [rng.random() >= _UNANSWERABLE[language] for _ in range(questions)]


def _language(number: int) -> Language:
    return "en" if number % 2 == 0 else "zh"


def _sheet(rng: random.Random, part: Part, language: Language) -> sheets.Drawn:
    """In a layout of those trained on."""
    return sheets.draw(sheets.random_sheet(rng, part, language), rng.choice(sheets.TRAINED_LAYOUTS), rng)


def _save_all(shown: Sequence[sheets.Drawn], out: Path, task: str, part: Part, number: int) -> list[str]:
    names = (f"{task}-{place}" for place in range(len(shown)))
    return [_save(one.image, out, name, part, number) for one, name in zip(shown, names, strict=True)]


def _save(image: Image.Image, out: Path, task: str, part: Part, number: int) -> str:
    name = f"pictures/{task}-{part}/{number // 1000}/{number}.png"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(out / name, compress_level=1)
    return name


def _block(make: Callable[[int], dict[str, Any]], numbers: range) -> list[dict[str, Any]]:
    return [make(number) for number in numbers]


def build(out: Path, counts: dict[str, int], held_out: int, seed: int, processes: int) -> dict[str, int]:
    """Write everything. Returns the rows of each task."""
    data = fetch_data(out)
    (out / HELD_OUT).mkdir(parents=True, exist_ok=True)
    made: dict[str, int] = {}
    with ProcessPoolExecutor(processes) as pool:

        def rows(make: Callable[[int], dict[str, Any]], count: int) -> list[dict[str, Any]]:
            blocks = [range(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)]
            return [one for block in pool.map(partial(_block, make), blocks) for one in block]

        train = easy_vqa.conversations(data, out, "train", generator(seed, "easy-vqa"))
        made["easy-vqa"] = len(train)
        for task, count in counts.items():
            train += rows(partial(TRAINED[task], seed, "train", out), count)
            made[task] = count
        write(out / "train.jsonl", train)
        write(out / "train-text.jsonl", [one for one in train if "image" not in one])
        for task, make in held_out_tasks().items():
            write(out / HELD_OUT / f"{task}.jsonl", rows(partial(make, seed, out), held_out))
    tested = easy_vqa.conversations(data, out, "test", generator(seed, "easy-vqa"))
    write(out / HELD_OUT / "easy-vqa.jsonl", tested)
    return made


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the drawn rows, for a trial")
    parser.add_argument("--held-out", type=int, default=HELD_OUT_ROWS, help="rows a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    start = time.perf_counter()
    counts = {task: round(count * args.share) for task, count in COUNTS.items()}
    made = build(args.out, counts, args.held_out, args.seed, args.processes)
    print(f"{made}: {sum(made.values()):,} rows in {time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
