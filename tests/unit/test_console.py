"""Progress as people see it, in a terminal and in a log."""

from __future__ import annotations

import pytest

from pipelines.console import progress_bar


def test_a_log_has_one_line_for_each_thing_that_is_begun(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as report:
        report("reading documents", 0, 1200)
        report("reading documents", 7, 1200, "pictures read: 5")
        report("encoding and writing", 0, 0)
    assert capsys.readouterr().err == "reading documents (1,200)\nencoding and writing\n"


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
