"""What people see in a terminal: tables and progress bars. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pipelines.core.plain import tidy

if TYPE_CHECKING:
    from pipelines.core.entailment import NoVerdict
    from pipelines.core.types import SearchResult
    from pipelines.evaluate.baseline import Change, Comparison
    from pipelines.evaluate.figures import Group
    from pipelines.evaluate.generation import Report as GenerationReport
    from pipelines.evaluate.grounding import Report as GroundingReport
    from pipelines.evaluate.retrieval import Ablation, Report
    from pipelines.ingest.backup import Moved
    from pipelines.ingest.dry_run import DryRun
    from pipelines.ingest.summary import Summary

_Name = TypeVar("_Name", bound=str)
_TEXT_WIDTH = 160
_SHOWN_REFUSALS = 20
_SHOWN_PARTS = 4
_UNFINISHED: Final[Mapping[bool | None, str]] = {
    True: "in the hands of that process",
    False: "taken up by the next ingest",
    None: "in the hands of that process, or if it is gone taken up by the next ingest",
}


class ShowProgress(Protocol):
    """What is being done, how much of it is done, how much there is (0: unknown), and what else to say."""

    def __call__(self, what: str, done: int, total: int, detail: str = "") -> None: ...


@contextmanager
def progress_bar() -> Iterator[ShowProgress]:
    """A bar on stderr, with what is being done, how far it is, the time it took and the time left.

    Where stderr is no terminal, a line for each thing that is begun, without detail.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(what: str, done: int, total: int, detail: str = "") -> None:
            description = f"{what} ({detail})" if detail else what
            bar.update(task, description=description, completed=done, total=total or None)

        yield report


def _lines(console: Console) -> ShowProgress:
    last: list[str] = []

    def report(what: str, done: int, total: int, detail: str = "") -> None:
        if last != [what]:
            console.print(what + (f" ({total:,})" if total else ""), highlight=False)
            last[:] = [what]

    return report


def print_summary(summary: Summary, index: Path) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("documents", f"{summary.documents:,} ingested, {summary.unchanged:,} unchanged")
    if summary.gone:
        done = "deleted" if summary.pruned else "kept (--prune deletes them)"
        table.add_row("gone", f"{summary.gone:,} that their source holds no more: {done}")
    _add_unclear(table, summary.unclear)
    table.add_row(
        "images", f"{summary.images:,} ({summary.encoded_images:,} encoded, the rest from the cache)"
    )
    table.add_row("chunks", f"{summary.chunks:,} ({summary.encoded_chunks:,} embedded)")
    refused = f"{summary.rejected:,}"
    if summary.known_rejected:
        refused += f", and {summary.known_rejected:,} known from earlier runs"
    if summary.rejected:
        refused += f"; reasons in {index / 'rejected' / summary.run}.parquet"
    table.add_row("rejected", refused)
    if summary.same_pictures or summary.near_duplicates:
        same, near = summary.same_pictures or 0, summary.near_duplicates or 0
        said = f"{same:,} images are the same file as another, {near:,} look like one"
        table.add_row("duplicates", f"{said}; they stand in near-duplicates.parquet of the index")
    table.add_row("time", f"{summary.elapsed_s:.1f} s, {summary.images_per_s:.1f} images/s")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in summary.stage_s.items())
    table.add_row("by stage", stages or "nothing to do")
    totals = summary.index
    table.add_row(
        "index",
        f"{totals['documents']:,} documents, {totals['images']:,} images, {totals['chunks']:,} chunks",
    )
    Console(soft_wrap=True, markup=False).print(table)  # a path may hold brackets


def _add_unclear(table: Table, number: int) -> None:
    if number:
        said = "that are not listed, but kept: each may be a row of its source that cannot be read"
        table.add_row("unclear", f"{number:,} {said}")


def print_dry_run(would: DryRun) -> None:
    table = Table(show_header=False, box=None)
    table.add_row("new", f"{would.new:,} documents")
    table.add_row("changed", f"{would.changed:,}")
    table.add_row("unchanged", f"{would.unchanged:,}, with {would.known_rejected:,} parts refused before")
    deleted = f"{would.pruned:,} would be deleted" if would.pruned else "--prune would delete them"
    table.add_row("gone", f"{would.gone:,}" + (f"; {deleted}" if would.gone else ""))
    _add_unclear(table, would.unclear)
    table.add_row("refused", f"{len(would.refused):,}")
    console = Console(soft_wrap=True)
    console.print(table)
    for bad in would.refused[:_SHOWN_REFUSALS]:
        console.print(Text(f"  {bad.source}: {bad.reason}"))
    if len(would.refused) > _SHOWN_REFUSALS:
        console.print(f"  and {len(would.refused) - _SHOWN_REFUSALS:,} more")
    if would.unfinished_runs:
        console.print("a run was cut short, or goes on: what it has finished is counted as to do")


def print_moved(done: str, moved: Moved) -> None:
    counted = [(moved.documents, "documents"), (moved.images, "images"), (moved.chunks, "chunks")]
    counted.append((moved.previews, "previews"))
    what = ", ".join(f"{number:,} {name}" for number, name in counted)
    Console(soft_wrap=True).print(Text(f"{done} {what} in {moved.elapsed_s:.1f} s: {moved.address}"))
    if moved.missing_previews:
        said = f"{moved.missing_previews:,} pictures have no usable preview: they are found, but not shown"
        Console(stderr=True).print(said, style="yellow", highlight=False)
    if moved.lacks:
        said = (
            f"made by an earlier version, it lacks {', '.join(moved.lacks)}: pictures that look the same are "
            "compared again after `mmrag ingest SOURCE --rebuild`"
        )
        Console(stderr=True, soft_wrap=True).print(said, style="yellow", highlight=False, markup=False)


def print_hits(result: SearchResult) -> None:
    console = Console()
    table = Table("", "id", "score", "found by", "text", "picture")
    for hit in result.hits:
        branches = ", ".join(f"{branch} {rank}" for branch, rank in hit.sources.items())
        text = " ".join(hit.text.split())[:_TEXT_WIDTH]
        picture = Text("open", style=f"link {hit.image_uri}") if hit.image_uri else Text("")
        table.add_row(str(hit.citation_id), Text(hit.id), f"{hit.score:.4f}", branches, Text(text), picture)
    console.print(table if result.hits else "nothing found")
    for missing in result.degraded:
        Console(stderr=True).print(f"degraded: {missing}", style="yellow", highlight=False, markup=False)


def print_answer(answer: dict[str, Any]) -> None:
    """What `ask --json` prints as one object, for people."""
    console = Console(soft_wrap=True)
    console.print(Text(answer["answer"], style="bold"))
    hits = {hit["citation_id"]: hit for hit in answer["hits"]}
    for citation in answer["citations"]:
        hit = hits[citation["n"]]
        text = " ".join(hit["text"].split())[:_TEXT_WIDTH]
        console.print(Text(f"[{citation['n']}] {hit['id']}  {text}"))
    for box in answer["boxes"]:
        where = "the picture asked about" if box["image"] == "query" else f"the picture of [{box['image']}]"
        corners = ", ".join(str(round(edge)) for edge in box["xyxy"])
        console.print(Text(f"box on {where}: {corners}  {box['label']}"))
    told = [f"degraded: {missing}" for missing in answer["degraded"]]
    if answer["usage"]["cut"]:
        told.append("the answer was cut: generator.max_tokens is how long it may be")
    for line in told:
        Console(stderr=True).print(line, style="yellow", highlight=False, markup=False)


def print_status(status: dict[str, Any]) -> None:
    table = Table("", "ledger", "store")
    for store, count in status["stores"].items():
        table.add_row(store, str(status["expected"][store]), str(count))
    console = Console(soft_wrap=True, markup=False)  # a path, or a store's error, may hold brackets
    console.print(table)
    totals = status["ledger"]
    counted = [f"{totals[name]:,} {name}" for name in ("documents", "images", "chunks")]
    counted.append(f"{totals['rejected']:,} parts rejected")
    counted += [f"{n:,} {name}" for name, n in totals["status"].items()]
    ledger = ", ".join(counted)
    console.print(
        f"{status['index']}: {ledger}; dead letters that stand {status['dead_letters']:,}", highlight=False
    )
    console.print(f"on disk: {_sizes_told(status['bytes'])}", highlight=False)
    if alike := status["near_duplicates"]:
        same, near = alike["same"], alike["near"]
        said = f"images that are the same file as another: {same:,}; that look like one: {near:,}"
        console.print(said, highlight=False)
    for name, space in (("visual", status["space"]), ("text", status["text_space"])):
        told = f"{name} vectors: {space['model']}, {space['dim']} dimensions"
        console.print(f"{told}, fingerprint {status['fingerprints'][name]}", highlight=False)
    for name, measured in status.get("recall", {}).items():
        console.print(f"{name} recall@10: {_recall_told(measured)}", highlight=False)
    for run in status["last_runs"][:3]:
        told = ", ".join(f"{run[name]:,} {name}" for name in ("documents", "images", "chunks", "rejected"))
        console.print(f"run {run['run']}: {told}; {run['elapsed_s']:.0f} s", highlight=False)
    if status["generation"]:
        kept = status["kept_generation"]
        kept_too = "" if kept is None else f"; {kept} is kept for its readers until the next ingest"
        console.print(f"generation {status['generation']}{kept_too}", highlight=False)
    if rebuild := status["rebuild"]:
        console.print(
            f"a rebuild has not ended (generation {rebuild['generation']}, "
            f"{rebuild['ledger']['documents']:,} documents and {rebuild['acknowledged_rows']:,} rows more): "
            "the same ingest --rebuild takes it up, unless it is what writes now",
            highlight=False,
        )
    writer = status["writer"]
    if writer:
        console.print(_writer_told(writer), highlight=False)
    if status["unfinished_runs"]:
        whose = _UNFINISHED[writer["running"] if writer else False]
        console.print(f"unfinished runs, {whose}: {', '.join(status['unfinished_runs'])}", highlight=False)


def _writer_told(writer: Mapping[str, Any]) -> str:
    who = f"by pid {writer['pid']} on {writer['host']} since {writer['since']}"
    if writer["running"]:
        return f"being written {who}"
    if writer["running"] is None:
        return f"being written {who}, unless that is gone, which cannot be seen from here"
    return f"was being written {who}, which is gone"


def _sizes_told(sizes: Mapping[str, int]) -> str:
    """The largest parts; the rest is in the sum."""
    largest = sorted(((size, name) for name, size in sizes.items() if size), reverse=True)[:_SHOWN_PARTS]
    parts = ", ".join(f"{name} {decimal(size)}" for size, name in largest)
    return decimal(sum(sizes.values())) + (f" ({parts})" if parts else "")


def _recall_told(measured: dict[str, Any] | str) -> str:
    if isinstance(measured, str):
        return measured
    return (
        f"{measured['recall']:.3f} of {measured['probed']} searches" if measured["probed"] else "it is empty"
    )


def print_retrieval(report: Report) -> None:
    """Tables of all queries and each language's, of each branch alone, and of the ablations."""
    console = Console()
    console.print(_figures({"all queries": report.overall, **report.by_language}))
    console.print(_figures({f"{branch} alone": group for branch, group in report.by_branch.items()}))
    if report.ablations:
        console.print(_differences(report.ablations))
    _print_instruments(report.instruments, report.overall)
    if report.left_out:
        console.print(f"left out, for nothing is relevant to them: {report.left_out:,} queries")
    for missing, queries in report.degraded.items():
        message = f"degraded: {missing} ({queries:,} of {report.overall.queries:,} queries)"
        Console(stderr=True).print(message, style="yellow", highlight=False, markup=False)


def print_generation(report: GenerationReport) -> None:
    """A table of the figures, what measured them, what became of answers, statements and verdicts, and the
    worst answers."""
    _print_groups(report.groups)
    _print_instruments(report.instruments, next(iter(report.groups.values())))
    _print_counts("answers", report.counts)
    _print_counts("statements by their citations", report.statements)
    _print_counts("the judge", report.judge)
    _print_worst(report.worst, report.degraded)


def warn_of_judge(report: GenerationReport) -> None:
    """On stderr, what was not scored or decided: how much, why, and in the judge's own words."""
    said = []
    if undecided := report.undecided:
        said.append(f"not decided, so neither right nor wrong: {_told(undecided)} of the cited statements")
    if unscored := report.unscored:
        scored = int(report.judge["scored"])
        judged = f"{scored or 'none'} of {scored + sum(unscored.values()):,} answers"
        said.append(f"the judge scored {judged}: {_told(unscored)}")
        if unscored.get("unparsable", 0) > scored:
            said.append(
                "its replies are not the JSON object alone: evaluate.judge.max_tokens may cut them off, or "
                "it puts a fence around them, which evaluate.judge.extra_body={response_format: {type: "
                "json_object}} may keep it from (not with evaluate.entailment=judge, which wants one word)"
            )
    for line in [*said, *map(tidy, report.problems.values())]:
        Console(stderr=True, soft_wrap=True).print(line, style="yellow", highlight=False, markup=False)


def _told(counts: Mapping[NoVerdict, int]) -> str:
    return ", ".join(f"{number:,} {why}" for why, number in counts.items())


def print_grounding(report: GroundingReport) -> None:
    _print_groups(report.groups)
    _print_counts("answers", report.counts)
    if report.left_out:
        Console().print(f"left out, for they have no boxes: {report.left_out:,} questions", highlight=False)
    _print_worst(report.worst, report.degraded)


def _print_groups(groups: Mapping[str, Group]) -> None:
    """`groups` begins with all queries."""
    named = {
        "all questions" if place == 0 else name: group for place, (name, group) in enumerate(groups.items())
    }
    Console().print(_figures(named))


def _print_instruments(instruments: Mapping[str, str], group: Group) -> None:
    from pipelines.evaluate.figures import measured_by

    for measures, model in measured_by(instruments, group.metrics).items():
        line = f"{measures}: by {model}"
        Console(soft_wrap=True).print(line, style="dim", highlight=False, markup=False)


def _print_counts(what: str, counts: Mapping[_Name, float]) -> None:
    told = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number)
    if told:
        Console(soft_wrap=True).print(f"{what}: {told}", highlight=False)


def _print_worst(worst: Sequence[str], degraded: Mapping[str, int]) -> None:
    if worst:
        Console(soft_wrap=True).print(Text(f"the worst: {', '.join(map(tidy, worst))}"))
    for missing, queries in degraded.items():
        message = f"degraded: {tidy(missing)} ({queries:,} queries)"
        Console(stderr=True).print(message, style="yellow", highlight=False, markup=False)


def _figures(groups: Mapping[str, Group]) -> Table:
    table = Table("")
    for name, group in groups.items():
        table.add_column(Text(f"{tidy(name)} ({group.queries:,})"))
    for measured in next(iter(groups.values())).metrics:
        table.add_row(measured, *(_cell(measured, group) for group in groups.values()))
    return table


def _differences(ablations: Mapping[str, Ablation]) -> Table:
    table = Table("")
    for name, found in ablations.items():
        table.add_column(Text(f"{name} ({found.queries:,})"))
    for measured in next(iter(ablations.values())).metrics:
        cells = [found.metrics[measured] for found in ablations.values()]
        table.add_row(
            measured, *(f"{one.difference:+.3f} [{one.low:+.2f}, {one.high:+.2f}]" for one in cells)
        )
    return table


def _cell(measured: str, group: Group) -> str:
    """Over how many queries stands there where it is not over all."""
    if measured not in group.metrics:
        return ""
    it = group.metrics[measured]
    if measured.startswith("mean_rank"):
        return f"{it.mean:.1f} [{it.low:.1f}–{it.high:.1f}]"
    over = f" of {it.queries:,}" if it.queries < group.queries else ""
    return f"{it.mean:.3f} [{it.low:.2f}–{it.high:.2f}]{over}"


def print_comparison(comparison: Comparison) -> None:
    """All measures over all queries, and of each language those that became worse."""
    table = Table(f"{comparison.queries:,} queries of both", "before", "now", "difference", "")
    for measured, change in comparison.metrics.items():
        _add_change(table, measured, change)
    for language, found in comparison.by_language.items():
        for measured, change in found.items():
            if change.fell or change.too_few:
                _add_change(table, f"{measured} ({language})", change)
    console = Console(soft_wrap=True)
    Console().print(table)
    for name, (was, has) in comparison.system.items():
        console.print(f"{name}: {was} → {has}", highlight=False, markup=False)
    for measured, why in comparison.not_compared.items():
        console.print(f"not compared: {measured}: {why}", highlight=False, markup=False)


def _add_change(table: Table, name: str, change: Change) -> None:
    interval = f"{change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    fell = Text("fell", style="red") if change.fell else Text("fell, of too few" if change.too_few else "")
    table.add_row(Text(tidy(name)), f"{change.before:.3f}", f"{change.now:.3f}", interval, fell)


def warn_of_queries(comparison: Comparison) -> None:
    """On stderr, where a query has no partner in the other run."""
    for count, which in (
        (comparison.only_before, "only the baseline has"),
        (comparison.only_now, "only this run has"),
        (comparison.edited, "were edited since the baseline: what is asked, or what is right"),
    ):
        if count:
            said = f"not compared: {count:,} queries that {which}"
            Console(stderr=True, soft_wrap=True).print(said, style="yellow", highlight=False)
