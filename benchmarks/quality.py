"""How good are search, boxes and answers on the judged sets of public data?

    python benchmarks/quality.py [emoji] [gimp] [mixed] [plates] [easy-vqa] [gcompris]     default: all
    python benchmarks/quality.py gimp --split dev --set search.alpha_text=0.5

Builds what is not there (benchmarks/data/build.py), ingests it once into its NAME-index, and measures with
`mmrag evaluate`, as users do. Retrieval is asked by language and with tiny-aligner, and beside the hits stand
each branch's own. One table of ablations: without a branch, without the aligner, by ranks, with the
question's picture read, and on indexes of the emoji by single scales and by other pooling. --most: so many
of the questions that the generator answers, drawn by their ids' SHA-256. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.data.build import BUILDERS, build
from benchmarks.data.judged import read_rows, write_rows
from pipelines.evaluate.metrics import paired_bootstrap

DONE = (0, 3)
"""Exit statuses: 3 is an ingest that wrote some rows to the dead letters."""
MMRAG = Path(sys.executable).with_name("mmrag")
INGEST = dict.fromkeys(("gimp", "mixed", "plates"), ("ingest.ocr.kind=rapidocr",))
READING = {"plates": "search.ocr.kind=rapidocr"}
"""Sets whose questions bring pictures that say something, and what has them read."""
ALIGNER = ("search.aligner.model=tiny-aligner",)
RANKS_ALPHA = 0.3
BY_RANKS = (
    *ALIGNER, "search.fusion=ranks", f"search.alpha_text={RANKS_ALPHA}", "search.lexical_share=0.5",
    "search.alpha_image=0.7", "search.image_share=0.5",
)  # fmt: skip
"""Reciprocal rank fusion with the weights that were chosen for it."""
ONE_SCALE = {f"at {side} alone": (f"encoder.scales=[{side}]",) for side in (96, 160, 224)}
MEAN = {"pooled by mean": ("encoder.pooling=mean",)}
"""Asked by pictures alone: no text reaches them."""
OTHER_VECTORS = {"emoji": ONE_SCALE | MEAN}
"""Indexes of vectors made otherwise, by what they are called."""
TOLD = {
    "retrieval": ("ndcg@10", "recall@10", "success@1", "mrr@50"),
    "generation": ("exact_match", "token_f1", "citation_precision", "refusal_accuracy"),
    "grounding": ("iou", "precision@iou0.5", "recall@iou0.5"),
}


def mmrag(*words: object) -> Any:
    done = subprocess.run([MMRAG, *map(str, words), "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode not in DONE:
        sys.exit(f"mmrag {words[0]} ended with status {done.returncode}")
    return json.loads(done.stdout)


def sets(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def ingested(folder: Path, index: Path, settings: Sequence[str]) -> Path:
    """The set's index. What it holds already is not done again."""
    mmrag("ingest", folder / "manifest.jsonl", "--index", index, *sets(settings))
    return index


def by_language(folder: Path, split: str) -> Iterator[tuple[str, Path]]:
    """A file of questions for each language, those without words apart; where some bring a picture, these
    once more by themselves."""
    rows = read_rows(folder / f"{split}.jsonl")
    for language in sorted({row.get("language", "") for row in rows}):
        of_language = [row for row in rows if row.get("language", "") == language]
        pictured = [row for row in of_language if "image" in row]
        groups = {language or "a picture": of_language}
        if 0 < len(pictured) < len(of_language):
            groups[f"{language} with a picture"] = pictured
        for name, some in groups.items():
            file = (
                folder / f"{split}-{name.replace(', ', '-').replace(' ', '-')}.jsonl"
            )  # beside its pictures
            write_rows(file, some)
            yield name, file


def retrieval(name: str, folder: Path, index: Path, split: str, settings: Sequence[str]) -> None:
    others = OTHER_VECTORS.get(name, {})
    for other, made in others.items():
        ingested(folder, beside(index, other), made)
    ablations = {}
    head("asked in", "ranking", "questions", *TOLD["retrieval"])
    for language, file in by_language(folder, split):

        def asked(where: object, *more: str, data: Path = file) -> Any:
            words = ("evaluate", "retrieval", "--data", data, "--index", where)
            return mmrag(*words, *sets([*more, *settings]))

        report, plain = asked(index, *ALIGNER), asked(index)
        groups = {"**hits**": report["overall"], "hits, no aligner": plain["overall"]}
        groups |= {f"`{branch}` alone": found for branch, found in report["by_branch"].items()}
        read = None
        if name in READING and any("image" in one for one in read_rows(file)):
            read = asked(index, *ALIGNER, READING[name])
            groups["hits, the question's picture read"] = read["overall"]
        for ranking, group in groups.items():
            told = (estimate(group["metrics"][one]) for one in TOLD["retrieval"])
            row(language, ranking, group["queries"], *told)
        by_ranks = f"by ranks, α {RANKS_ALPHA}"
        ablations[language] = report["ablations"] | {by_ranks: paired(asked(index, *BY_RANKS), report)}
        if read:
            ablations[language]["the question's picture read"] = paired(read, report)
        worded = any("text" in one for one in read_rows(file))
        for other, made in others.items():
            if other not in MEAN or not worded:
                found = asked(beside(index, other), *made)
                ablations[language][f"{other}, against hits without aligner"] = paired(found, plain)
    print()
    head("asked in", "hits", "questions", "nDCG@10", "difference of nDCG@10 (95 %)")
    for language, lost in ablations.items():
        for name, one in lost.items():
            found = one["metrics"]["ndcg@10"]
            interval = f"{found['difference']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
            row(language, name, one["queries"], f"{found['now']:.3f}", interval)


def beside(index: Path, other: str) -> Path:
    """Where the index of the same rows is that has other vectors."""
    return index.with_name(f"{index.name}-{other.replace(' ', '-')}")


def paired(now: Any, before: Any) -> Any:
    """Two reports over the same questions, in the form of an ablation."""
    values = [[[one["metrics"]["ndcg@10"]] for one in report["per_query"]] for report in (now, before)]
    now_N1, before_N1 = map(np.array, values)
    [[difference], [low], [high]] = paired_bootstrap(now_N1, before_N1)
    found = {"now": now_N1.mean(), "difference": difference, "low": low, "high": high}
    return {"queries": len(now_N1), "metrics": {"ndcg@10": found}}


def answers(name: str, folder: Path, index: Path, questions: Path, settings: Sequence[str]) -> None:
    """What the generator says, or where its boxes are."""
    kind = BUILDERS[name].TASK
    report = mmrag("evaluate", kind, "--data", questions, "--index", index, *sets(settings))
    head("measure", "questions", "mean (95 %)")
    for measure in TOLD[kind]:
        if one := report["groups"]["overall"]["metrics"].get(measure):
            row(measure, one["queries"], estimate(one))
    print(f"\n{report['counts']}")


def head(*names: str) -> None:
    row(*names)
    print("|---" * len(names) + "|")


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def drawn(folder: Path, split: str, most: int) -> Path:
    rows = read_rows(folder / f"{split}.jsonl")
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).digest())
    write_rows(file := folder / f"{split}-{most}.jsonl", rows[:most])
    return file


def estimate(one: dict[str, float]) -> str:
    return f"{one['mean']:.3f} ({one['low']:.3f}–{one['high']:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BUILDERS))
    parser.add_argument("--work", type=Path, default=Path("build/judged"))
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="of searching and answering"
    )
    args = parser.parse_args()
    for name in args.names or BUILDERS:
        folder = build(name, args.work)
        index = ingested(folder, args.work / f"{name}-index", INGEST.get(name, ()))
        print(f"\n## {name}\n", flush=True)
        if BUILDERS[name].TASK == "retrieval":
            retrieval(name, folder, index, args.split, args.set)
        else:
            answers(name, folder, index, drawn(folder, args.split, args.most), args.set)


if __name__ == "__main__":
    main()
