"""A report as one HTML file that needs nothing else: figures with their intervals, what changed against an
earlier run, and the worst cases as they are seen.

Knows nothing of how anything was measured. All text is data and is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

from pipelines.core.errors import UsageError
from pipelines.core.standalone import page, thumbnail_of
from pipelines.evaluate.baseline import LOWER_IS_BETTER, Change, Comparison
from pipelines.evaluate.cases import Case, Shown
from pipelines.evaluate.figures import Estimate, Group

_LONGEST_TEXT = 240
_JUDGE_SCALE = 5.0
_WIDTH = 160
"""Of a plot, in its own units."""


def check_place(path: Path) -> None:
    """Raise UsageError where no file can be written: known before anything is asked."""
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError(f"--report {path}: wanted the name of a file in a folder that is there")


def write_page(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    tables: Sequence[Mapping[str, Group]],
    cases: Sequence[Case],
    comparison: Comparison | None = None,
    ablations: Mapping[str, Mapping[str, Change]] = MappingProxyType({}),
) -> None:
    """`facts` are lines of the head, by name; the groups of a table share their measures; `ablations` are by
    what was left out. Raises UsageError where the file cannot be written."""
    body = "\n".join([
        f"<header><h1>{escape(title)}</h1><dl>{_facts(facts)}</dl></header>",
        _comparison(comparison) if comparison else "",
        *(_table(groups) for groups in tables if groups),
        *(_ablation(name, found) for name, found in ablations.items()),
        _cases(cases),
    ])  # fmt: skip
    style = (files("pipelines.evaluate") / "page.css").read_text("utf-8")
    try:
        path.write_text(page(title, style, body), encoding="utf-8", newline="\n")
    except OSError as exc:
        raise UsageError(f"--report {path}: {exc.strerror}") from exc


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())


def _table(groups: Mapping[str, Group]) -> str:
    head = "".join(
        f"<th>{escape(name)} <small>{group.queries:,}</small></th>" for name, group in groups.items()
    )
    names = dict.fromkeys(name for group in groups.values() for name in group.metrics)
    rows = "".join(_row(name, [group.metrics.get(name) for group in groups.values()]) for name in names)
    return (
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(name: str, found: Sequence[Estimate | None]) -> str:
    scale = _scale(name, [one.high for one in found if one])
    note = " <small>lower is better</small>" if name.startswith(LOWER_IS_BETTER) else ""
    cells = "".join(f"<td>{_estimate(one, scale) if one else '–'}</td>" for one in found)
    return f"<tr><th>{escape(name)}{note}</th>{cells}</tr>"


def _scale(name: str, highest: Sequence[float]) -> float:
    return _JUDGE_SCALE if name.startswith("judge_") else max(1.0, *highest)


def _estimate(one: Estimate, scale: float) -> str:
    low, mean, high = (_WIDTH * value / scale for value in (one.low, one.mean, one.high))
    words = f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"
    return f"{_plot(0, low, mean, high)}<span class=n>{words}</span>"


def _comparison(comparison: Comparison) -> str:
    left = ""
    if others := comparison.only_before + comparison.only_now:
        left += f"<p class=note>Not compared: {others:,} queries that only one of the runs has.</p>"
    if comparison.not_compared:
        left += f"<p class=note>Not compared: {escape(', '.join(comparison.not_compared))}.</p>"
    return (
        f"<h2>Against the baseline <small>{comparison.queries:,} queries of both</small></h2>"
        f"{_changes(comparison.metrics, 'before', 'now')}{left}"
    )


def _ablation(name: str, found: Mapping[str, Change]) -> str:
    return f"<h2>Without {escape(name)}</h2>{_changes(found, 'with', 'without')}"


def _changes(changes: Mapping[str, Change], before: str, now: str) -> str:
    reach = max((max(abs(one.low), abs(one.high)) for one in changes.values()), default=0) or 1.0
    rows = "".join(_change(name, one, reach) for name, one in changes.items())
    return (
        f"<div class=scroll><table><thead><tr><th></th><th>{before}</th><th>{now}</th><th>difference</th>"
        f"<th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _change(name: str, one: Change, reach: float) -> str:
    """The plot's middle is no difference."""
    low, middle, high = (_WIDTH / 2 * (1 + value / reach) for value in (one.low, one.difference, one.high))
    words = f"{one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
    fell = "<b class=bad>fell</b>" if one.fell else ""
    return (
        f"<tr><th>{escape(name)}</th><td class=n>{one.before:.3f}</td><td class=n>{one.now:.3f}</td>"
        f"<td>{_plot(_WIDTH / 2, low, middle, high)}<span class=n>{words}</span></td><td>{fell}</td></tr>"
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
