"""Progress as people see it, in a terminal and in a log."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import memory_index

from pipelines.console import print_status, print_summary, progress_bar
from pipelines.ingest.status import index_status
from pipelines.ingest.summary import Summary


def test_a_log_has_one_line_for_each_thing_that_is_begun(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as report:
        report("reading documents", 0, 1200)
        report("reading documents", 7, 1200, "pictures read: 5")
        report("encoding and writing", 0, 0)
    assert capsys.readouterr().err == "reading documents (1,200)\nencoding and writing\n"


def test_brackets_of_a_path_are_no_markup(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    index = tmp_path / "kb[old]"
    totals = {"documents": 1, "images": 2, "chunks": 3}
    print_summary(Summary("r1", 1, 0, 0, 0, 2, 3, 4, 0, 0, 0, 6.0, 0.0, {}, totals, None, None), index)
    assert f"reasons in {index}/rejected/r1.parquet" in capsys.readouterr().out
    memory_index(index)
    with memory_index(index, create=False) as opened:
        status = index_status(opened)
    status["stores"]["visual"] = "[Errno 111] refused"
    status["bytes"] = {"vectors": 2_000_000, "lexical": 0, "previews": 500_000, "cache": 30_000_000, "a": 1}
    status["bytes"] |= {"b": 2, "c": 3}
    print_status(status)
    shown = capsys.readouterr().out
    assert f"{index}: 0 documents" in shown
    assert "[Errno 111] refused" in shown
    assert "on disk: 32.5 MB (cache 30.0 MB, vectors 2.0 MB, previews 500.0 kB, c 3 bytes)\n" in shown


@pytest.mark.parametrize(
    ("running", "told", "taken_up"),
    [
        (True, "being written by {}\n", "in the hands of that process: r1\n"),
        (False, "was being written by {}, which is gone\n", "taken up by the next ingest: r1\n"),
        (
            None,
            "being written by {}, unless that is gone, which cannot be seen from here\n",
            "in the hands of that process, or if it is gone taken up by the next ingest: r1\n",
        ),
    ],
)
def test_a_run_that_goes_on_is_told_from_one_that_died(
    running: bool | None, told: str, taken_up: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = memory_index(tmp_path)
    status = index_status(index) | {"unfinished_runs": ["r1"]}
    print_status(status)
    assert capsys.readouterr().out.endswith("\nunfinished runs, taken up by the next ingest: r1\n")
    writer = {"host": "node-7", "pid": 4242, "since": "2026-01-02T03:04:05+00:00", "running": running}
    print_status(status | {"writer": writer})
    who = told.format("pid 4242 on node-7 since 2026-01-02T03:04:05+00:00")
    assert capsys.readouterr().out.endswith(f"\n{who}unfinished runs, {taken_up}")


def test_a_bar_says_how_many_pictures_were_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a terminal
    monkeypatch.setenv("COLUMNS", "160")
    with progress_bar() as report:
        report("reading documents", 7, 1200, "pictures read: 5")
    shown = capsys.readouterr().err
    assert "reading documents (pictures read: 5)" in shown
    assert "7/1200" in shown
