"""The page of a report: it shows what was measured, escapes that, and asks nothing of the network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import COLOURS, image_part, memory_index, picture
from judged_questions import answer, question

from pipelines.core import images
from pipelines.core.errors import UsageError
from pipelines.core.previews import preview_at, write_preview
from pipelines.core.retriever import SearchConfig
from pipelines.evaluate.baseline import Baseline, Change, compare
from pipelines.evaluate.boxes import OnPicture
from pipelines.evaluate.cases import WANTED, Case, Held, Shown, worst_answers, worst_searches
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.figures import groups
from pipelines.evaluate.page import Page, check_place, write_page
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.retrieval import QueryFigures, evaluate

CONFIG = EvaluateConfig(resamples=200)
HOSTILE = "<script>alert('x')</script> & \"quotes\" <img src=http://example.com/a.png>"
CONTENT = "ab" * 32


def figured(name: str, **metrics: float) -> QueryFigures:
    return QueryFigures(name, "en", (), metrics)


@pytest.fixture
def previews(tmp_path: Path) -> Path:
    write_preview(tmp_path, CONTENT, images.preview(images.decode(picture("green", side=100))))
    return tmp_path


def test_figures_stand_with_their_intervals(tmp_path: Path) -> None:
    found = groups(
        [figured("a", **{"mrr@50": 1.0, "mean_rank@50": 51}), figured("b", **{"mrr@50": 0.0})], CONFIG
    )
    write_page(tmp_path / "r.html", Page("Retrieval", {"index": "kb"}, [found], [], system={"a.b": 1}))
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "overall <small>2</small>" in text
    assert "0.500 [0.000, 1.000]" in text
    assert "51.000 [51.000, 51.000]" in text
    assert "<dt>index</dt><dd>kb</dd>" in text
    assert "<dt>a.b</dt><dd>1</dd>" in text
    assert "by " not in text
    assert "The worst" not in text
    assert text.count("<small>of 1</small>") == 2  # the mean rank, overall and of its language
    ends = [float(end) for end in re.findall(r"class=interval d='M[\d.]+ 7H([\d.]+)'", text)]
    assert ends
    assert all(end <= 160 for end in ends), "a plot leaves its axis"


def test_what_measured_stands_in_the_head_with_the_names_of_its_measures(tmp_path: Path) -> None:
    found = groups([figured("a", judge_a=5, right=1), figured("b", judge_b=4)], CONFIG)
    instruments = {"judge_": "<m>, rubric 1", "semantic_": "words"}
    write_page(tmp_path / "r.html", Page("Answers", {}, [found], [], instruments=instruments))
    head = (tmp_path / "r.html").read_text("utf-8").partition("</header>")[0]
    assert "<dt>judge_a, judge_b</dt><dd>by &lt;m&gt;, rubric 1</dd>" in head
    assert "words" not in head  # it measured nothing


def test_a_fall_against_the_baseline_is_marked(tmp_path: Path) -> None:
    now = [figured(f"q{number}", right=0.0, same=1.0) for number in range(8)]
    earlier = Baseline.model_validate(
        {"per_query": [{"id": f"q{number}", "metrics": {"right": 1.0, "same": 1.0}} for number in range(9)]}
    )
    write_page(tmp_path / "r.html", Page("t", {}, [], []), compare(now, earlier, CONFIG))
    text = (tmp_path / "r.html").read_text("utf-8")
    assert text.count("fell</b>") == 1
    assert "-1.000 [-1.000, -1.000]" in text
    assert "1 queries that only the baseline has" in text
    few = compare(now[:2], earlier, CONFIG)
    write_page(tmp_path / "r.html", Page("t", {}, [], []), few)
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "fell</b>" not in text
    assert text.count("fell, of too few") == 1


def test_what_it_shows_is_data(tmp_path: Path) -> None:
    shown = Shown(HOSTILE, HOSTILE, None, right=True)
    case = Case(HOSTILE, HOSTILE, HOSTILE, HOSTILE, {HOSTILE: 1.0}, (shown,))
    write_page(tmp_path / "r.html", Page(HOSTILE, {HOSTILE: HOSTILE}, [], [case], {}, {HOSTILE: HOSTILE}))
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in text
    assert "<img" not in text
    assert "default-src 'none'" in text
    assert "<li class=right>" in text
    assert text.count("✓") == 1
    assert not re.search(r"<[a-z][^>]*(?:src|href)=['\"]?(?:http|/)", text)


def test_the_worst_searches_are_shown_with_the_pictures_that_came(previews: Path) -> None:
    index = memory_index(previews / "kb")
    for name, colour in (("leaf", "green"), ("rose", "red")):
        vector = np.tile(np.array(COLOURS[colour], np.float32) / 255, 2) / np.sqrt(2, dtype=np.float32)
        part = image_part(name, content=CONTENT if name == "leaf" else "cd" * 32)
        index.visual().upsert([part], vector[None].astype(np.float32))
    queries = [
        JudgedQuery(name, "q:1", None, picture("green"), "auto", None, "en", {name: 1.0})
        for name in ("leaf", "rose")
    ]
    with index:
        retriever = index.retriever(SearchConfig())
        report = evaluate(queries, retriever, (1,), 50, CONFIG)
        (case,) = worst_searches(
            queries,
            report.per_query,
            50,
            retriever,
            lambda tenant, names: {},
            lambda uri: preview_at(previews, uri),
        )
    assert (case.id, case.wanted, case.metrics["success@1"]) == ("rose", "rose", 0)
    own, first, second = case.shown
    assert own.picture is not None
    assert own.picture.getpixel((0, 0)) == pytest.approx(COLOURS["green"], abs=3)
    assert first.label == "1. leaf#img-0"
    assert first.picture is not None
    assert (first.right, second.right) == (False, True)
    assert second.picture is None


def test_what_should_have_come_stands_before_what_came(previews: Path) -> None:
    index = memory_index(previews / "kb")
    part = image_part("leaf", content=CONTENT)
    vector = np.tile(np.array(COLOURS["green"], np.float32) / 255, 2) / np.sqrt(2, dtype=np.float32)
    index.visual().upsert([part], vector[None].astype(np.float32))
    relevant = {**dict.fromkeys(["a", "b", "rose", "x"], 1.0), "c": 2.0}
    query = JudgedQuery("q", "q:1", None, picture("green"), "auto", None, "en", relevant)
    asked: list[str] = []

    def find(tenant: str, names: Sequence[str]) -> dict[str, Held]:
        asked.extend(names)
        return {"c#img-0": Held("a rose", f"file:///{CONTENT}.jpg"), "b#txt-0": Held("words", None)}

    with index:
        retriever = index.retriever(SearchConfig())
        report = evaluate([query], retriever, (1,), 50, CONFIG)
        (case,) = worst_searches(
            [query], report.per_query, 50, retriever, find, lambda uri: preview_at(previews, uri)
        )
    _, first, second, came = case.shown
    assert [one.label for one in (first, second)] == ["wanted: c#img-0", "wanted: b#txt-0"]
    assert (first.picture is not None, first.right, second.text) == (True, True, "words")
    assert (came.label, came.right) == ("1. leaf#img-0", False)
    assert len(asked) == 2 * WANTED  # of five documents


def test_the_worst_answers_are_shown_with_both_boxes(previews: Path) -> None:
    asked = question(
        text="Where?",
        answers=(),
        picture=picture("blue", side=100),
        boxes=(OnPicture("query", (5, 5, 50, 50)),),
    )
    said = answer("There.", "words", boxes=(OnPicture("query", (50, 50, 95, 95)),))
    (case,) = worst_answers([asked], {"q1": said}, ["q1"], [figured("q1", iou=0.0)], lambda uri: None)
    own, evidence = case.shown
    assert own.picture is not None
    plain = images.decode(picture("blue", side=100)).image
    for box in ((0, 0, 52, 52), (48, 48, 100, 100)):
        assert own.picture.crop(box).tobytes() != plain.crop(box).tobytes()
    assert (evidence.label, evidence.text) == ("[1] doc#txt-1", "words")
    assert case.said == "There."


def test_a_case_says_what_would_have_been_right(previews: Path) -> None:
    asked = [question("a"), question("b", answers=(), answerable=False)]
    given = {"a": answer("12 mm"), "b": answer("", error="timeout")}
    cases = worst_answers(asked, given, ["b", "a"], [figured("a"), figured("b")], lambda uri: None)
    assert [case.id for case in cases] == ["b", "a"]
    assert cases[0].wanted.startswith("a refusal")
    assert cases[0].said == "failed: timeout"
    assert cases[1].wanted == "90 mm"


def test_a_picture_that_cannot_be_read_is_said(previews: Path) -> None:
    asked = question(picture=b"no picture")
    (case,) = worst_answers([asked], {"q1": answer("x")}, ["q1"], [figured("q1")], lambda uri: None)
    assert case.shown[0].picture is None
    assert case.shown[0].text


@pytest.mark.parametrize("place", ["nowhere/r.html", "."])
def test_a_place_that_cannot_be_written_is_told_first(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match="--report"):
        check_place(tmp_path / place)


def test_what_was_left_out_stands_with_what_it_cost(tmp_path: Path) -> None:
    lost = Change(4, 0.75, 0.5, -0.25, -0.375, -0.125, True)
    write_page(tmp_path / "r.html", Page("Retrieval", {}, [], (), {"without <text>": {"ndcg@10": lost}}))
    text = (tmp_path / "r.html").read_text("utf-8")
    assert "<h2>Hits without &lt;text&gt;</h2>" in text
    assert "<th>as it is</th><th>ablated</th>" in text
    assert "-0.250 [-0.375, -0.125]" in text
    assert "fell" not in text  # as it should
