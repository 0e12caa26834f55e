"""What a run of `mmrag evaluate` says at its end, and what it is held against. Knows no measure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import typer

from pipelines import __version__
from pipelines.cli_options import print_json
from pipelines.core.errors import UsageError
from pipelines.core.plain import tidy

if TYPE_CHECKING:
    from pipelines.console import ShowProgress
    from pipelines.evaluate.baseline import Baseline, Comparison, Named
    from pipelines.evaluate.figures import Spoken
    from pipelines.evaluate.page import Page
    from pipelines.settings import Settings

FELL = 1
"""Exit status: a measure is worse than the baseline's, or gone."""


class Report(Protocol):
    @property
    def per_query(self) -> Sequence[Spoken]: ...

    def as_dict(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What the three commands have in common: where a report goes, and what it is held against. `system` says
    what is measured."""

    settings: Settings
    system: Mapping[str, Any]
    baseline: Path | None
    earlier: Baseline | None
    page: Path | None
    as_json: bool

    @classmethod
    def begin(
        cls,
        settings: Settings,
        measured: Sequence[str],
        baseline: Path | None,
        page: Path | None,
        as_json: bool,
    ) -> Run:
        """`measured`: the groups of settings that figures depend on. Raises UsageError for a baseline that is
        none, and a place that cannot be written: before anything is asked."""
        from pipelines.evaluate.baseline import read_baseline
        from pipelines.evaluate.page import check_place
        from pipelines.settings import flattened, shown

        earlier = read_baseline(baseline) if baseline else None
        if page:
            check_place(page)
        groups = shown(settings)
        date = datetime.now(UTC).isoformat(timespec="seconds")
        system = {"version": __version__, "date": date} | flattened({name: groups[name] for name in measured})
        return cls(settings, system, baseline, earlier, page, as_json)

    def require_common(self, queries: Sequence[Named]) -> None:
        from pipelines.evaluate.baseline import require_common

        if self.earlier:
            require_common(queries, self.earlier)

    def facts(self, data: Path, asked: Path) -> dict[str, str]:
        """The head of a page."""
        config = self.settings.evaluate
        interval = f"{config.confidence:.0%}, bootstrap of {config.resamples:,} resamples over the queries"
        about = {name: str(self.system[name]) for name in ("version", "date")}
        return {"data": str(data), "asked": str(asked), "intervals": interval, **about}

    def conclude(
        self,
        report: Report,
        told: Mapping[str, Any],
        show: Callable[[], None],
        page: Callable[[], Page],
        instruments: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Print the report and what it is against the baseline, and only then make the page, which may fail.
        Raises Exit where a measure fell or is gone, and UsageError where there was none to compare."""
        from pipelines.evaluate.baseline import compare
        from pipelines.evaluate.page import write_page

        config, comparison = self.settings.evaluate, None
        if self.earlier:
            comparison = compare(report.per_query, self.earlier, config, instruments, self.system)
        self._print(report, told, show, comparison)
        if self.page:
            with redirect_stdout(sys.stderr):
                write_page(self.page, page(), comparison)
        if comparison:
            self._hold(comparison)

    def _print(
        self,
        report: Report,
        told: Mapping[str, Any],
        show: Callable[[], None],
        comparison: Comparison | None,
    ) -> None:
        from pipelines.console import print_comparison, warn_of_queries
        from pipelines.evaluate.baseline import least_pairs

        if self.as_json:
            compared = {"comparison": comparison.as_dict() if comparison else None}
            about = {**told, **self.settings.evaluate.bootstrap, "system": self.system}
            print_json(about | report.as_dict() | compared, allow_nan=False)
        else:
            show()
            if comparison:
                print_comparison(comparison)
        if comparison:
            warn_of_queries(comparison)
            least = least_pairs(self.settings.evaluate.confidence)
            if comparison.queries < least:
                few = f"{comparison.queries} queries of both, and a fall takes {least} that differ"
                print(f"mmrag: no measure can fall: {few}", file=sys.stderr)

    def _hold(self, comparison: Comparison) -> None:
        if not comparison.metrics:
            raise UsageError("--baseline: has none of these measures; measure in the same way (-k, judge)")
        for what, names in (("fell against", comparison.fallen), ("gone since", comparison.vanished)):
            if names:
                print(f"mmrag: {what} {self.baseline}: {tidy(', '.join(names))}", file=sys.stderr)
        if comparison.fallen or comparison.vanished:
            raise typer.Exit(FELL)


@contextmanager
def working() -> Iterator[ShowProgress]:
    """Progress; what a library prints meanwhile is no part of the report."""
    from pipelines.console import progress_bar

    with progress_bar() as progress, redirect_stdout(sys.stderr):
        yield progress
