"""Retrieval in one process, as a gateway of the compact layout has it: hits, tenants, metrics."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from fakes import chunk_part, image_part, picture, shelved_index

from pipelines.core.last_ingest import FILE, note_ingest
from pipelines.core.retriever import Query, SearchConfig
from pipelines.serve.config import MonitorConfig, ServeConfig
from pipelines.serve.metrics import exposition
from pipelines.serve.retrieval import Retrieval

RED = picture("red")


@pytest.fixture
def retrieval(tmp_path: Path) -> Retrieval:
    """Over an index of one picture, of tenant a, and a passage."""
    with shelved_index(tmp_path, writable=True) as index, index.write_lock():
        index.create()
        seen = image_part("rose", tenant="a", content="c0ffee")
        index.visual().upsert([seen], index.encoder().encode_asked(RED))
        passages = [chunk_part("rose", "a red rose", tenant="a")]
        index.text().upsert(passages, index.embedder().embed_passages(["a red rose"]))
        index.lexical().upsert(passages)
    serve = ServeConfig(monitor=MonitorConfig(drift_window=1))
    return Retrieval(shelved_index(tmp_path), SearchConfig(), serve)


def samples(retrieval: Retrieval) -> dict[str, str]:
    lines = exposition({"": retrieval.families()}).decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_it_searches(retrieval: Retrieval) -> None:
    found = asyncio.run(retrieval.search(Query("red", image=RED)))
    assert {hit.document_id for hit in found.hits} == {"rose"}
    assert found.degraded == ()


def test_a_picture_is_its_tenants(retrieval: Retrieval) -> None:
    asked = [("c0ffee", "a"), ("c0ffee", "b"), ("decade", "a")]
    assert [asyncio.run(retrieval.has_content(*one)) for one in asked] == [True, False, False]


def test_it_tells_when_its_index_was_last_brought_up_to_date(retrieval: Retrieval, tmp_path: Path) -> None:
    assert not samples(retrieval)
    before = time.time()
    note_ingest(tmp_path)
    told = float(samples(retrieval)["mmrag_last_ingest_timestamp_seconds"])
    assert before - 1 <= told <= time.time() + 1  # whole seconds
    (tmp_path / FILE).write_text("cut")
    assert not samples(retrieval)


def test_it_counts_known_pictures_and_compares_each_branchs_questions_with_the_index(
    retrieval: Retrieval,
) -> None:
    assert not samples(retrieval)
    for _ in range(2):
        asyncio.run(retrieval.search(Query("red", image=RED)))
    retrieval._drift._thread.submit(int).result(10)  # once what was submitted is done
    told = samples(retrieval)
    assert told['mmrag_picture_cache_lookups_total{result="hit"}'] == "1.0"
    assert told['mmrag_picture_cache_lookups_total{result="miss"}'] == "1.0"
    compared = {name for name in told if name.startswith("mmrag_question_drift")}
    branches = ("text", "text_to_image", "image_to_image")
    assert compared == {f'mmrag_question_drift{{branch="{branch}"}}' for branch in branches}
