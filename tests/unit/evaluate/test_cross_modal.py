"""Judged texts and their pictures as pairs of the encoder's space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import image_part, memory_index

from pipelines.core.index import Index
from pipelines.evaluate import metrics
from pipelines.evaluate.cross_modal import cross_modal
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.retrieval import Also


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Two documents, the second with two pictures, of unlike vectors."""
    index = memory_index(tmp_path / "kb")
    parts = [image_part("rose"), image_part("leaf"), image_part("leaf", n=1)]
    index.visual().upsert(parts, np.eye(3, index.visual().dim, dtype=np.float32))
    return index


def query(name: str, text: str | None, **relevant: float) -> JudgedQuery:
    names = {key.replace("__", "#img-"): grade for key, grade in relevant.items()}
    return JudgedQuery(name, "q.jsonl:1", text, None, "auto", None, "en", names)


def found(index: Index, *queries: JudgedQuery) -> Also:
    return cross_modal(queries, index.visual(), index.encoder())


def test_a_pair_is_a_text_and_the_picture_most_relevant_to_it(index: Index) -> None:
    also = found(index, query("q1", "red", rose=1, leaf__1=2), query("q2", "green", leaf=1))
    texts = index.encoder().encode_texts(["red", "green"])
    pictures = np.eye(3, texts.shape[1])[[2, 1]]  # leaf#img-1, leaf#img-0
    for measure in (metrics.clip_score, metrics.cross_modal_gap, metrics.in_modal_gap):
        values = [also.metrics[one][measure.__name__] for one in ("q1", "q2")]
        assert values == pytest.approx(measure(pictures, texts).tolist())
    assert also.instruments["clip_score"] == "colours, 1"


def test_where_the_most_relevant_has_no_picture_the_next_one_makes_the_pair(index: Index) -> None:
    also = found(index, query("q1", "red", sheet=2, rose__0=1))
    assert list(also.metrics) == ["q1"]


def test_what_names_no_picture_of_the_index_or_has_no_text_is_no_pair(index: Index) -> None:
    passages = JudgedQuery("q1", "q.jsonl:1", "red", None, "auto", None, "en", {"rose#txt-0": 1.0})
    pictured = JudgedQuery("q2", "q.jsonl:2", "red", Path("red.png"), "auto", None, "en", {"rose": 1.0})
    also = found(index, passages, pictured, query("q3", "red", nothing=1), query("q4", None, rose=1))
    assert also.metrics == {}
    assert also.instruments["clip_score"] == "colours, 1"  # whose measure is gone is told by it


def test_one_pair_alone_has_no_gap(index: Index) -> None:
    assert list(found(index, query("q1", "red", rose=1)).metrics["q1"]) == ["clip_score"]


def test_gaps_over_another_set_of_pairs_are_another_instruments(index: Index) -> None:
    """Else questions that are added change the measures of those that were there."""
    first, second, third = (query(f"q{n}", text, rose=1) for n, text in enumerate(("red", "green", "blue")))
    few, same, many = (
        found(index, first, second),
        found(index, second, first),
        found(index, first, second, third),
    )
    for gap in ("cross_modal_gap", "in_modal_gap"):
        assert few.instruments[gap] == same.instruments[gap] != many.instruments[gap]
    assert few.instruments["clip_score"] == many.instruments["clip_score"]
