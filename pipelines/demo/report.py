"""The demo's report: one HTML file that needs nothing else, and tables for the terminal.

Knows nothing of how hits were found; their pictures come from the caller's `load_image`. All text
is data and is escaped; pictures are decoded by the same rules as at ingest and embedded as small
JPEGs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich import markup
from rich.table import Table

from pipelines.core.standalone import page, thumbnail
from pipelines.demo.answers import WELL_PLACED, AnswerRun, answer_totals
from pipelines.demo.runs import SHOWN, IngestSummary, QueryRun, totals

LoadImage = Callable[[Mapping[str, Any]], bytes | None]

_LONGEST_TEXT = 170
_NO_PICTURE = "<div class='picture words'>¶</div>"
_RULE = (
    f"A question counts as found when a document that was named beforehand is among the first {SHOWN} "
    "hits. Questions and expected documents were written before any search was run."
)


def write_report(
    path: Path,
    corpus_dir: Path,
    runs: Sequence[QueryRun],
    answers: Sequence[AnswerRun] = (),
    *,
    load_image: LoadImage,
    ingest: IngestSummary | None = None,
    models: str = "",
) -> None:
    """Write the report. `models` names what encoded and searched, in the reader's words.

    `load_image` returns the picture of a hit (any form that ingest reads), or None where it has none.
    """
    body = "\n".join([
        _header(models),
        _tiles(runs, answers, ingest),
        _answers(answers, corpus_dir),
        _summary(runs, corpus_dir),
        *(_section(n, run, corpus_dir, load_image) for n, run in enumerate(runs, 1)),
    ])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page("mmrag demo", _style(), body), encoding="utf-8", newline="\n")


def table(runs: Sequence[QueryRun]) -> Table:
    """The summary for the terminal."""
    total = totals(runs)
    out = Table(
        title="Questions to the example corpus",
        caption=f"{total.found} of {total.questions} found in the first {SHOWN}, "
        f"{total.first} at the top, median {total.median_ms:.0f} ms",
    )
    out.add_column("")
    out.add_column("Question", overflow="fold", ratio=5)
    out.add_column("Expected", overflow="fold", ratio=3)
    out.add_column("First hit", overflow="fold", ratio=3)
    out.add_column("Rank", justify="right")
    out.add_column("ms", justify="right")
    for run in runs:
        out.add_row(
            "[green]✓[/]" if run.rank else "[red]✗[/]",
            markup.escape(_asked(run)),
            markup.escape(", ".join(run.question.expected)),
            markup.escape(run.hits[0]["document_id"] if run.hits else "–"),
            str(run.rank or "–"),
            f"{run.elapsed_ms:.0f}",
        )
    return out


def answer_table(answers: Sequence[AnswerRun]) -> Table:
    """The answers for the terminal."""
    total = answer_totals(answers)
    out = Table(
        title="Questions answered by a server of the example corpus",
        caption=f"{total.right} of {total.questions} right, {total.placed} of {total.boxes} values marked",
    )
    out.add_column("")
    out.add_column("Question", overflow="fold", ratio=4)
    out.add_column("Answer", overflow="fold", ratio=5)
    out.add_column("Box")
    out.add_column("ms", justify="right")
    for run in answers:
        out.add_row(
            "[green]✓[/]" if run.right else "[red]✗[/]",
            markup.escape(_in_line(run.question.image, run.question.text)),
            markup.escape(run.answer["answer"]),
            {None: "", True: "[green]✓[/]", False: "[red]✗[/]"}[run.placed],
            f"{run.elapsed_ms:.0f}",
        )
    return out


def _style() -> str:
    """The style sheet, and the corpus's font for machines that have none with Chinese characters."""
    here = files("pipelines.demo")
    font = base64.b64encode((here / "fonts" / "NotoSansSC-subset.otf").read_bytes()).decode("ascii")
    face = (
        '@font-face { font-family: "Demo CJK"; unicode-range: U+2E80-9FFF, U+FF00-FFEF; '
        f"src: url(data:font/otf;base64,{font}); }}\n"
    )
    return face + (here / "report.css").read_text("utf-8")


def _header(models: str) -> str:
    line = f"<p class=models>{escape(models)}</p>" if models else ""
    return (
        "<header><h1>mmrag <span>demo</span></h1>"
        "<p>Pictures and text, asked in English, in Chinese and with pictures. The drawings, charts and "
        f"exercises hold what their text does not say.</p>{line}</header>"
    )


def _tiles(runs: Sequence[QueryRun], answers: Sequence[AnswerRun], ingest: IngestSummary | None) -> str:
    total = totals(runs)
    tiles = [
        (f"{total.found} / {total.questions}", f"found in the first {SHOWN}"),
        (f"{total.first} / {total.questions}", "found as the first hit"),
        (f"{total.median_ms:.0f} ms", "median search"),
    ]
    if answers:
        answered = answer_totals(answers)
        tiles += [
            (f"{answered.right} / {answered.questions}", "answered rightly"),
            (f"{answered.placed} / {answered.boxes}", "values marked in the picture"),
        ]
    if ingest is not None:
        tiles += [
            (str(ingest.documents), "documents"),
            (str(ingest.images), "images"),
            (str(ingest.chunks), "chunks of text"),
            (str(ingest.rejected), "rejected"),
            (f"{ingest.images_per_s:.1f}", f"images/s over {ingest.seconds:.0f} s of ingest"),
        ]
    cells = "".join(
        f"<div><b>{escape(value)}</b><small>{escape(name)}</small></div>" for value, name in tiles
    )
    warning = (
        f"<p class=degraded>{total.degraded} of the searches ran degraded: see below.</p>"
        if total.degraded
        else ""
    )
    return f"<section class=tiles>{cells}</section>{warning}<p class=rule>{escape(_RULE)}</p>"


def _answers(answers: Sequence[AnswerRun], corpus_dir: Path) -> str:
    """A card for each answer: the question, what was said, what it cites, and the picture with its boxes."""
    if not answers:
        return ""
    rule = (
        "An answer is right when it says the figure that was written down beforehand and cites its document "
        "(but for the question's own picture), or refuses where there is none. A box is, when it is on the "
        f"right picture and its IoU with the value's is {WELL_PLACED} or more."
    )
    cards = "".join(_answer_card(run, corpus_dir) for run in answers)
    return f"<h2 class=part>Asked</h2><ol class=answers>{cards}</ol><p class=rule>{escape(rule)}</p>"


def _answer_card(run: AnswerRun, corpus_dir: Path) -> str:
    answer = run.answer
    pictures = run.pictures
    if not pictures and run.question.image:
        pictures = ((corpus_dir / run.question.image).read_bytes(),)
    shown = "".join(map(_picture, pictures)) or _NO_PICTURE
    cited = "".join(
        f"<span class=chip>[{citation['n']}] <b>{escape(citation['hit_id'])}</b></span>"
        for citation in answer["citations"]
    )
    marked = "" if run.placed is None else f"<span class=chip>box {_tick(run.placed)}</span>"
    degraded = "".join(f"<p class=degraded>degraded: {escape(reason)}</p>" for reason in answer["degraded"])
    return (
        f"<li class=hit>{shown}"
        f"<div class=line>{_tick(run.right)} <span class=score>{escape(run.question.shows)}</span></div>"
        f"<p><q>{escape(run.question.text)}</q></p><p class=said>{escape(answer['answer'])}</p>{degraded}"
        f"<div class=line>{cited}{marked}<span class=chip>{run.elapsed_ms:.0f} ms</span></div></li>"
    )


def _picture(content: bytes) -> str:
    return f"<div class=picture><img src='{thumbnail(content)}' alt='a picture of the answer'></div>"


def _summary(runs: Sequence[QueryRun], corpus_dir: Path) -> str:
    rows = "".join(
        f"<tr><td>{_mark(run)}</td>"
        f"<td><a href='#q{n}'>{_small(run, corpus_dir)}{escape(_asked(run))}</a></td>"
        f"<td>{escape(run.question.shows)}</td>"
        f"<td><code>{escape(', '.join(run.question.expected))}</code></td>"
        f"<td class=n>{run.rank or '–'}</td><td class=n>{run.elapsed_ms:.0f}</td></tr>"
        for n, run in enumerate(runs, 1)
    )
    head = "<tr><th></th><th>Question</th><th>Shows</th><th>Expected</th><th>Rank</th><th>ms</th></tr>"
    return f"<div class=scroll><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"


def _section(number: int, run: QueryRun, corpus_dir: Path, load_image: LoadImage) -> str:
    question = run.question
    asked = ""
    if question.image:
        picture = (corpus_dir / question.image).read_bytes()
        asked += f"<img class=asked src='{thumbnail(picture)}' alt='the picture that was asked with'>"
    if question.text:
        asked += f"<q>{escape(question.text)}</q>"
    labels = [f"mode {question.mode}", *([f"filter {question.filter}"] if question.filter else [])]
    chips = "".join(f"<span class=chip>{escape(label)}</span>" for label in labels)
    degraded = "".join(f"<p class=degraded>degraded: {escape(reason)}</p>" for reason in run.degraded)
    hits = "".join(_card(n, hit, run, load_image) for n, hit in enumerate(run.hits, 1))
    return (
        f"<section class=question id=q{number}><h2>{_mark(run)} {escape(question.shows)}</h2>"
        f"<div class=asking>{asked}<p>{chips}<span class=chip>{run.elapsed_ms:.0f} ms</span></p>"
        f"<p class=wanted>expected: <code>{escape(', '.join(question.expected))}</code></p>{degraded}</div>"
        f"<ol class=hits>{hits or '<li class=none>nothing was found</li>'}</ol></section>"
    )


def _card(rank: int, hit: Mapping[str, Any], run: QueryRun, load_image: LoadImage) -> str:
    content = load_image(hit)
    picture = (
        f"<div class=picture><img loading=lazy src='{thumbnail(content)}' alt='{escape(hit['id'])}'></div>"
        if content is not None
        else _NO_PICTURE
    )
    text = hit["text"] if len(hit["text"]) <= _LONGEST_TEXT else hit["text"][:_LONGEST_TEXT].rstrip() + " …"
    sources = "".join(
        f"<span class=chip>{escape(str(branch))} <b>{place}</b></span>"
        for branch, place in sorted(hit["sources"].items(), key=lambda source: source[1])
    )
    expected = run.expects(hit)
    tick = "<span class=tick title='expected'>✓</span>" if expected else ""
    return (
        f"<li class='{'hit expected' if expected else 'hit'}'>{picture}"
        f"<div class=line><span class=rank>{rank}</span><code>{escape(hit['document_id'])}</code>{tick}</div>"
        f"<p>{escape(text) or '<i>no text</i>'}</p>"
        f"<div class=line><span class=score>score {hit['score']:.4f}</span>{sources}</div></li>"
    )


def _mark(run: QueryRun) -> str:
    return _tick(bool(run.rank))


def _tick(good: bool) -> str:
    return "<span class=yes>✓</span>" if good else "<span class=no>✗</span>"


def _in_line(image: str, *texts: str) -> str:
    """A question in one line; its picture by name."""
    return " ".join(part for part in (f"[{Path(image).stem}]" if image else "", *texts) if part)


def _asked(run: QueryRun) -> str:
    question = run.question
    return _in_line(question.image, question.text, f"({question.filter})" if question.filter else "")


def _small(run: QueryRun, corpus_dir: Path) -> str:
    """The question's picture, small enough to stand in a line."""
    if not run.question.image:
        return ""
    content = (corpus_dir / run.question.image).read_bytes()
    return f"<img class=small src='{thumbnail(content, 96)}' alt=''>"
