"""Measuring a small index in memory: what is asked, how judgements meet hits, and the report's figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import COLOURS, DownStore, Reversed, chunk_part, image_part, memory_index, picture

from pipelines.core.errors import StoreUnavailable, UsageError
from pipelines.core.index import Index
from pipelines.core.retriever import Query, Retriever, SearchConfig
from pipelines.core.types import Hit
from pipelines.evaluate.config import EvaluateConfig
from pipelines.evaluate.queries import JudgedQuery
from pipelines.evaluate.retrieval import Also, Report, evaluate, grades, measure, ranking_depth

CONFIG = EvaluateConfig(resamples=200)
DEPTH = 50


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """A red and a green picture, each with its text; two pages of one document about red."""
    index = memory_index(tmp_path / "kb")
    for document, colour in (("rose", "red"), ("leaf", "green")):
        vector = np.tile(np.array(COLOURS[colour], np.float32) / 255, 2) / np.sqrt(2, dtype=np.float32)
        index.visual().upsert([image_part(document)], vector[None].astype(np.float32))
    chunks = [
        chunk_part("rose", "a red rose", images=[0]),
        chunk_part("leaf", "a green leaf", images=[0]),
        chunk_part("paint", "red red red paint", n=0),
        chunk_part("paint", "red paint dries", n=1),
    ]
    index.text().upsert(chunks, index.embedder().embed_passages([chunk.text for chunk in chunks]))
    index.lexical().upsert(chunks)
    yield index
    index.close()


def judged(text: str | None = "red", *names: str, **fields: Any) -> JudgedQuery:
    made = JudgedQuery(
        id=f"{text}-{'-'.join(names)}",
        where="q.jsonl:1",
        text=text,
        picture=None,
        mode="auto",
        filter=None,
        language="en",
        relevant=dict.fromkeys(names, 1.0),
    )
    return replace(made, **fields)


def hit(document: str, tenant: str) -> Hit:
    return Hit(f"{document}#txt-0", document, "chunk", 1.0, "red", "/a.txt", None, {}, 0, {}, tenant=tenant)


def measured(index: Index, *queries: JudgedQuery, config: SearchConfig | None = None) -> Report:
    retriever = index.retriever(config or SearchConfig())
    return evaluate(queries, retriever, (1, 5), DEPTH, CONFIG)


def test_the_figures_are_those_of_the_hits_of_a_search(index: Index) -> None:
    hits = index.retriever(SearchConfig()).search(Query("green leaf", k=DEPTH)).hits
    assert hits[0].id == "leaf#img-0"
    report = measured(index, judged("green leaf", "leaf"), judged("green leaf", "rose"))
    ranks = [list(dict.fromkeys(hit.document_id for hit in hits)).index(d) + 1 for d in ("leaf", "rose")]
    assert report.overall.metrics["success@1"].mean == 0.5
    assert report.overall.metrics["mean_rank@50"].mean == sum(ranks) / 2
    assert report.overall.metrics["mrr@50"].mean == pytest.approx((1 + 1 / ranks[1]) / 2)
    assert [one.metrics["recall@1"] for one in report.per_query] == [1, 0]


def test_a_document_stands_where_its_first_hit_stands(index: Index) -> None:
    hits = index.retriever(SearchConfig()).search(Query("paint", k=DEPTH)).hits
    assert [hit.document_id for hit in hits] == ["paint", "paint", "rose", "leaf"]
    assert grades(hits, judged("paint", "paint")) == (1, 0, 0)
    assert grades(hits, judged("paint", "rose")) == (0, 1, 0)
    assert grades(hits, judged("paint", "paint#txt-1", "rose#img-0")) == (1, 0, 1, 0)


def test_another_tenants_document_of_the_same_id_is_not_the_relevant_one() -> None:
    hits = [hit("1", tenant) for tenant in ("globex", "acme", "globex", "acme")]
    assert grades(hits, judged("red", "1", tenant="acme")) == (0, 1)
    assert grades(hits, judged("red", "1#txt-0", tenant="globex")) == (1, 0)
    assert grades(hits[:1], judged("red", "1", tenant="acme")) == (0,)


def test_each_branch_is_measured_alone_and_a_chunk_credits_its_pictures(index: Index) -> None:
    report = measured(index, judged("green leaf", "leaf#img-0"))
    assert list(report.by_branch) == ["text_to_image", "text", "lexical"]
    for group in report.by_branch.values():
        assert group.queries == 1
        assert group.metrics["success@1"].mean == 1


def test_a_branch_is_measured_on_the_queries_that_it_has(index: Index) -> None:
    report = measured(index, judged(None, "rose", picture=picture("red")), judged("red", "rose"))
    assert {branch: group.queries for branch, group in report.by_branch.items()} == {
        "image_to_image": 1,
        "text_to_image": 1,
        "text": 1,
        "lexical": 1,
    }


def test_what_a_branch_is_worth_is_measured_by_leaving_it_out(index: Index) -> None:
    query = judged("red", "paint")
    report = measured(index, query, judged(None, "rose", picture=picture("red")))
    assert {name: found.queries for name, found in report.ablations.items()} == {
        "without text_to_image": 1,
        "without text": 1,
        "without lexical": 1,
    }  # the picture alone has one branch: nothing is left without it
    retriever = index.retriever(SearchConfig())
    runs = retriever.run_branches(query.query(DEPTH))
    for name, found in report.ablations.items():
        left = {other: run for other, run in runs.items() if name != f"without {other}"}
        hits = retriever.fused(query.query(DEPTH), left).hits
        rank = list(dict.fromkeys(hit.document_id for hit in hits)).index("paint") + 1
        assert found.metrics["mrr@50"].now == 1 / rank
        assert found.metrics["mrr@50"].before == report.per_query[0].metrics["mrr@50"]
        change = found.metrics["mrr@50"]
        assert change.difference == pytest.approx(change.now - change.before)


def test_the_same_runs_are_fused_in_another_way(index: Index) -> None:
    query, by_ranks = judged("red rose", "paint"), index.retriever(SearchConfig(fusion="ranks"))
    only_picture = judged(None, "rose", picture=picture("red"))
    searcher, otherwise = index.retriever(SearchConfig()), {"fused by ranks": by_ranks}
    report = evaluate([query, only_picture], searcher, (1,), DEPTH, CONFIG, otherwise=otherwise)
    found = report.ablations["fused by ranks"]
    hits = by_ranks.search(query.query(DEPTH)).hits
    rank = list(dict.fromkeys(hit.document_id for hit in hits)).index("paint") + 1
    assert (found.queries, found.metrics["mrr@50"].now) == (1, 1 / rank)


def test_the_aligner_is_left_out_alone_and_with_the_pictures_that_it_reorders(index: Index) -> None:
    """It puts the leaf before the rose."""
    query, retriever = judged("red", "rose#img-0"), index.retriever(SearchConfig(), aligner=Reversed())
    report = evaluate([query], retriever, (1,), DEPTH, CONFIG)
    assert report.by_branch["text_to_image"].metrics["success@1"].mean == 1
    assert report.by_branch["aligner"].metrics["success@1"].mean == 0
    plain = measured(index, query)
    ranks = {name: found.metrics["mrr@50"].now for name, found in report.ablations.items()}
    assert ranks["without aligner"] == plain.overall.metrics["mrr@50"].mean
    assert ranks["without text_to_image"] == plain.ablations["without text_to_image"].metrics["mrr@50"].now


def test_without_the_questions_picture_the_aligner_has_no_pictures_from_there(index: Index) -> None:
    index.visual().upsert([image_part("sky")], index.encoder().encode_asked(picture("blue")))
    query = judged("red", "sky", picture=picture("blue"))
    kept = SearchConfig(candidates=1, alpha_text=1.0, alpha_image=1.0)  # each finds its first picture alone
    retriever = index.retriever(kept, aligner=Reversed())
    report = evaluate([query], retriever, (1,), 1, CONFIG)
    assert report.ablations["without lexical"].metrics["recall@1"].now == 1
    assert report.ablations["without image_to_image"].metrics["recall@1"].now == 0


def test_measures_that_need_no_search_stand_beside_the_others(index: Index) -> None:
    query, other = judged("red", "rose"), judged("green", "leaf")
    also = Also({query.id: {"clip_score": 0.7}}, {"clip_score": "a model"})
    report = evaluate([query, other], index.retriever(SearchConfig()), (1,), DEPTH, CONFIG, also=also)
    assert report.overall.metrics["clip_score"].mean == 0.7
    assert report.overall.metrics["clip_score"].queries == 1
    assert report.instruments == {"clip_score": "a model"}
    assert all("clip_score" not in found.metrics for found in report.ablations.values())


def test_languages_are_measured_apart(index: Index) -> None:
    report = measured(index, judged("green leaf", "leaf"), judged("green", "nothing", language="zh"))
    assert {name: group.queries for name, group in report.by_language.items()} == {"en": 1, "zh": 1}
    assert report.by_language["en"].metrics["recall@5"].mean == 1
    assert report.by_language["zh"].metrics["recall@5"].mean == 0
    assert report.by_language["zh"].metrics["mean_rank@50"].mean == 51


def test_queries_without_anything_relevant_are_left_out_and_counted(index: Index) -> None:
    report = measured(index, judged("green leaf", "leaf"), judged("red"))
    assert (report.overall.queries, report.left_out) == (1, 1)
    assert report.overall.metrics["recall@1"].mean == 1
    with pytest.raises(UsageError, match="nothing to measure"):
        measured(index, judged("red"))


def test_a_branch_that_fails_finds_nothing_and_is_counted(index: Index) -> None:
    index.lexical = DownStore  # type: ignore[assignment]
    report = measured(index, judged("green leaf", "leaf"), judged("红", "rose"))
    assert report.by_branch["lexical"].metrics["recall@5"].mean == 0
    counts = {message.partition(":")[0]: queries for message, queries in report.degraded.items()}
    assert counts == {"lexical": 2, "text_to_image": 1}  # the fake encoder reads ASCII only
    assert [len(one.degraded) for one in report.per_query] == [1, 2]


def test_an_index_that_does_not_answer_at_all_ends_the_measurement(index: Index) -> None:
    index.visual = index.text = index.lexical = DownStore  # type: ignore[assignment]
    with pytest.raises(StoreUnavailable, match="no branch could answer"):
        measured(index, judged("red", "rose"))


def test_a_picture_that_is_none_is_named_with_its_row(index: Index) -> None:
    with pytest.raises(UsageError, match=r"q\.jsonl:1: "):
        measured(index, judged(None, "rose", picture=b"no picture"))


def test_progress_counts_queries(index: Index) -> None:
    seen: list[tuple[int, int]] = []
    queries = [judged("red", "rose"), judged("green", "leaf")]
    retriever: Retriever = index.retriever(SearchConfig())
    evaluate(queries, retriever, (1,), DEPTH, CONFIG, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_graded_relevance_reaches_ndcg() -> None:
    query = judged("red", relevant={"a": 1.0, "b": 3.0})
    values = measure([query], [[1.0, 0.0, 3.0]], (3,), 3)
    assert values["ndcg@3"][0] == pytest.approx((1 + 3 / 2) / (3 + 1 / np.log2(3)))
    assert list(values) == ["recall@3", "success@3", "ndcg@3", "mrr@3", "mean_rank@3"]


def test_rankings_are_as_deep_as_the_branches_candidates() -> None:
    assert ranking_depth((1, 5), candidates=50) == 50
    assert ranking_depth((1, 100), candidates=50) == 100
    for wrong in ((), (0,), (1001,)):
        with pytest.raises(UsageError, match="-k must be from 1 to 1000"):
            ranking_depth(wrong, candidates=50)
