"""When the medical assistant says nothing: no case, none that is similar enough, a threshold that is none."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.medical import assistant
from pipelines.core.types import Hit, SearchResult

SAID = {"en": "a hand", "zh": "手部", "mark": "none"}


def cases(*similarities: float) -> Any:
    """A knowledge base with cases as similar as this to any picture, the first one first."""
    hits = tuple(
        Hit(f"c{n}#img-0", f"c{n}", "image", one, "", "s", None, SAID, n, {}, (), {"image_to_image": one})
        for n, one in enumerate(similarities, start=1)
    )
    return SimpleNamespace(search=lambda **asked: SearchResult(hits), picture=lambda hit: None)


def said(kb: Any, least: float) -> str:
    return assistant.answer(kb, b"a picture", least=least).blocks[0].text


@pytest.mark.parametrize("least", [0.81, 1.0, math.nan])
def test_nothing_is_said_of_a_case_that_is_not_similar_enough(least: float) -> None:
    assert said(cases(0.8, 0.5), least).startswith("No case is similar enough: the nearest has a similarity")


@pytest.mark.parametrize("least", [0.0, -1.0, 0.74])
def test_nothing_is_said_where_there_is_no_case(least: float) -> None:
    assert said(cases(), least).startswith("No case is similar enough")


@pytest.mark.parametrize("least", [0.8, 0.0])
def test_a_case_that_is_as_similar_as_is_needed_is_described(least: float) -> None:
    assert said(cases(0.8), least).endswith("is described so: a hand")


@pytest.mark.parametrize("least", ["nan", "-0.1", "1.01", "inf", "high"])
def test_a_threshold_that_is_none_is_refused(
    least: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["assistant", str(tmp_path), f"--least={least}"])
    with pytest.raises(SystemExit) as ended:
        assistant.main()
    assert ended.value.code == 2
    assert f"argument --least: {least!r}: wanted a number from 0 to 1" in capsys.readouterr().err
