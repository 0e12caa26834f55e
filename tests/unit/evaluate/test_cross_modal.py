"""Judged texts and their pictures as pairs of the encoder's space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import image_part, memory_index

from pipelines.core.index import Index
from pipelines.evaluate.cross_modal import MEASURES, cross_modal
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
    return cross_modal(queries, index.visual(), index.encoder(), "")


def test_a_pair_is_a_text_and_the_picture_most_relevant_to_it(index: Index) -> None:
    also = found(index, query("q1", "red", rose=1, leaf__1=2), query("q2", "green", leaf=1))
    [red, green] = index.encoder().encode_texts(["red", "green"])
    pictures = np.eye(3, len(red))[[2, 1]]  # leaf#img-1, leaf#img-0
    for name, measure in MEASURES.items():
        values = measure(pictures, np.stack([red, green]))
        assert [also.metrics[one][name] for one in ("q1", "q2")] == pytest.approx(values.tolist())
    assert set(also.instruments) == set(MEASURES)
    assert set(also.instruments.values()) == {"colours, 1"}


def test_what_names_no_picture_of_the_index_or_has_no_text_is_no_pair(index: Index) -> None:
    passages = JudgedQuery("q1", "q.jsonl:1", "red", None, "auto", None, "en", {"rose#txt-0": 1.0})
    pictured = JudgedQuery("q2", "q.jsonl:2", "red", Path("red.png"), "auto", None, "en", {"rose": 1.0})
    unknown = query("q3", "red", nothing=1)
    assert found(index, passages, pictured, unknown, query("q4", None, rose=1)) == Also({}, {})
    assert list(found(index, unknown, query("q5", "red", rose=1)).metrics) == ["q5"]
