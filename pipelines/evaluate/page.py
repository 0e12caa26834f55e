"""A report as one HTML file that needs nothing else: figures with their intervals, what changed against an
earlier run, and the worst cases as they are seen.

Knows nothing of how anything was measured. All text is data and is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from pipelines.core.errors import UsageError
from pipelines.core.standalone import page, thumbnail_of
from pipelines.evaluate.baseline import LOWER_IS_BETTER, Change, Comparison
from pipelines.evaluate.cases import Case, Shown
from pipelines.evaluate.figures import Estimate, Group, measured_by

_LONGEST_TEXT = 240
_JUDGE_SCALE = 5.0
_WIDTH = 160
"""Of a plot, in its own units."""


@dataclass(frozen=True, slots=True)
class Page:
    """`facts` are lines of the head, by name, `system` what was measured, by setting; the groups of a table
    share their measures; `ablations` are by what was left out; `instruments` are what measured, by the first
    letters of the measures' names."""

    title: str
    facts: Mapping[str, str]
    tables: Sequence[Mapping[str, Group]]
    cases: Sequence[Case]
    ablations: Mapping[str, Mapping[str, Change]] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    instruments: Mapping[str, str] = field(default_factory=dict)


def check_place(path: Path) -> None:
    """Raise UsageError where no file can be written: known before anything is asked."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--report {path}: wanted the name of a file in a folder that is there")


def write_page(path: Path, shown: Page, comparison: Comparison | None = None) -> None:
    """Raises UsageError where the file cannot be written."""
    facts = _facts({**shown.facts, **_instruments(shown)})
    body = "\n".join([
        f"<header><h1>{escape(shown.title)}</h1><dl>{facts}</dl>{_system(shown.system)}</header>",
        _comparison(comparison) if comparison else "",
        *(_table(groups) for groups in shown.tables if groups),
        *(_ablation(name, found) for name, found in shown.ablations.items()),
        _cases(shown.cases),
    ])  # fmt: skip
    style = (files("pipelines.evaluate") / "page.css").read_text("utf-8")
    try:
        path.write_text(page(shown.title, style, body), encoding="utf-8", newline="\n")
    except OSError as exc:
        raise UsageError(f"--report {path}: {exc.strerror}") from exc


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())


def _instruments(shown: Page) -> dict[str, str]:
    measures = dict.fromkeys(
        name for table in shown.tables for group in table.values() for name in group.metrics
    )
    return {names: f"by {model}" for names, model in measured_by(shown.instruments, measures).items()}


def _system(system: Mapping[str, Any]) -> str:
    told = {name: str(value) for name, value in system.items()}
    return f"<details><summary>what was measured</summary><dl>{_facts(told)}</dl></details>" if told else ""


def _table(groups: Mapping[str, Group]) -> str:
    head = "".join(
        f"<th>{escape(name)} <small>{group.queries:,}</small></th>" for name, group in groups.items()
    )
    names = dict.fromkeys(name for group in groups.values() for name in group.metrics)
    rows = "".join(_row(name, groups.values()) for name in names)
    return (
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(name: str, groups: Iterable[Group]) -> str:
    found = [(group.metrics.get(name), group.queries) for group in groups]
    scale = _scale(name, [one.high for one, _ in found if one])
    note = " <small>lower is better</small>" if name.startswith(LOWER_IS_BETTER) else ""
    cells = "".join(f"<td>{_estimate(one, scale, queries) if one else '–'}</td>" for one, queries in found)
    return f"<tr><th>{escape(name)}{note}</th>{cells}</tr>"


def _scale(name: str, highest: Sequence[float]) -> float:
    return _JUDGE_SCALE if name.startswith("judge_") else max(1.0, *highest)


def _estimate(one: Estimate, scale: float, queries: int) -> str:
    """Over how many of the queries stands there where it is not over all."""
    low, mean, high = (_WIDTH * value / scale for value in (one.low, one.mean, one.high))
    words = f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"
    over = f" <small>of {one.queries:,}</small>" if one.queries < queries else ""
    return f"{_plot(0, low, mean, high)}<span class=n>{words}</span>{over}"


def _comparison(comparison: Comparison) -> str:
    lines = [f"{name}: {was} → {has}" for name, (was, has) in comparison.system.items()]
    for count, run in ((comparison.only_before, "the baseline"), (comparison.only_now, "this run")):
        lines += [f"Not compared: {count:,} queries that only {run} has."] if count else []
    lines += [f"Not compared: {comparison.edited:,} queries that were edited."] if comparison.edited else []
    lines += [f"Gone: {name}." for name in comparison.vanished]
    lines += [
        f"Not compared: {name}: {why}."
        for name, why in comparison.not_compared.items()
        if name not in comparison.vanished
    ]
    spoken = "".join(
        f"<h3>{escape(name)}</h3>{_changes(found, 'before', 'now')}"
        for name, found in comparison.by_language.items()
    )
    return (
        f"<h2>Against the baseline <small>{comparison.queries:,} queries of both</small></h2>"
        f"{_changes(comparison.metrics, 'before', 'now')}"
        f"{''.join(f'<p class=note>{escape(line)}</p>' for line in lines)}{spoken}"
    )


def _ablation(name: str, found: Mapping[str, Change]) -> str:
    """Without marks: what is left out is expected to be missed."""
    return f"<h2>Hits {escape(name)}</h2>{_changes(found, 'as it is', 'ablated', marked=False)}"


def _changes(changes: Mapping[str, Change], before: str, now: str, marked: bool = True) -> str:
    reach = max((max(abs(one.low), abs(one.high)) for one in changes.values()), default=0) or 1.0
    rows = "".join(_change(name, one, reach, marked) for name, one in changes.items())
    return (
        f"<div class=scroll><table><thead><tr><th></th><th>{before}</th><th>{now}</th><th>difference</th>"
        f"<th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _change(name: str, one: Change, reach: float, marked: bool) -> str:
    """The plot's middle is no difference."""
    low, middle, high = (_WIDTH / 2 * (1 + value / reach) for value in (one.low, one.difference, one.high))
    words = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    fell = "<b class=bad>fell</b>" if one.fell else "fell, of too few" if one.too_few else ""
    return (
        f"<tr><th>{escape(name)}</th><td class=n>{one.before:.3f}</td><td class=n>{one.now:.3f}</td>"
        f"<td>{_plot(_WIDTH / 2, low, middle, high)}<span class=n>{words}</span></td>"
        f"<td>{fell if marked else ''}</td></tr>"
    )


def _plot(zero: float, low: float, mean: float, high: float) -> str:
    """An interval with its mean, over an axis with its zero. The words beside it say the same."""
    return (
        f"<svg viewBox='-4 0 {_WIDTH + 8} 14' width={_WIDTH + 8} height=14 aria-hidden=true>"
        f"<path class=axis d='M0 7H{_WIDTH}M{zero:.1f} 2V12'/>"
        f"<path class=interval d='M{low:.1f} 7H{high:.1f}'/>"
        f"<circle cx={mean:.1f} cy=7 r=4 /></svg>"
    )


def _cases(cases: Sequence[Case]) -> str:
    if not cases:
        return ""
    return f"<h2>The worst</h2><ol class=cases>{''.join(map(_case, cases))}</ol>"


def _case(case: Case) -> str:
    measures = "".join(
        f"<span class=chip>{escape(name)} <b>{value:.3g}</b></span>" for name, value in case.metrics.items()
    )
    said = f"<p class=said>{escape(case.said)}</p>" if case.said else ""
    return (
        f"<li><h3><code>{escape(case.id)}</code> <q>{escape(case.asked)}</q></h3>"
        f"<p class=note>right: {escape(case.wanted)}</p>{said}"
        f"<ul>{''.join(map(_shown, case.shown))}</ul><p>{measures}</p></li>"
    )


def _shown(one: Shown) -> str:
    picture = f"<img loading=lazy src='{thumbnail_of(one.picture, 320)}' alt=''>" if one.picture else ""
    text = one.text if len(one.text) <= _LONGEST_TEXT else one.text[:_LONGEST_TEXT].rstrip() + " …"
    kind = {True: "right", False: "wrong", None: "unjudged"}[one.right]
    mark = " ✓" if one.right else ""
    return f"<li class={kind}>{picture}<code>{escape(one.label)}{mark}</code><p>{escape(text)}</p></li>"
