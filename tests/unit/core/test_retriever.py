"""Hybrid retrieval over stores in memory. The scores are worked by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import COLOURS, ColourModel, DownStore, WordEmbedder, chunk_part, image_part, picture

from pipelines.core import filters
from pipelines.core.aligner import AlignerConfig, Asked, Candidates
from pipelines.core.cache import VectorCache
from pipelines.core.encoder import Encoder
from pipelines.core.errors import BadImage, StoreError, StoreUnavailable, UsageError
from pipelines.core.retriever import Branch, Knowledge, Query, Retriever, SearchConfig, credited_ranks, plan
from pipelines.core.stores import Vectors
from pipelines.core.stores.memory import MemoryLexicalStore, MemoryVectorStore
from pipelines.core.types import Found, Line, Part, SearchResult

RED = picture("red")


@dataclass
class World:
    """A small corpus, and a retriever over it. A test may put another store in a place."""

    knowledge: Knowledge
    model: ColourModel
    embedder: WordEmbedder
    config: SearchConfig
    retriever: Retriever | None = None

    def add_pictures(self, **colour_of: str) -> None:
        for document, colour in colour_of.items():
            self.add_picture(image_part(document), colour)

    def add_picture(self, part: Part, colour: str) -> None:
        vector = np.tile(np.array(COLOURS[colour], np.float32) / 255, 2) / np.sqrt(2)
        self.knowledge.visual().upsert([part], vector[None].astype(np.float32))

    def add_chunks(self, *parts: Part) -> None:
        self.knowledge.text().upsert(parts, self.embedder.embed_passages([part.text for part in parts]))
        self.knowledge.lexical().upsert(parts)

    def put(self, **places: Any) -> None:
        loaders = {name: (lambda store=store: store) for name, store in places.items()}
        self.knowledge = replace(self.knowledge, **loaders)

    def search(self, text: str | None = None, **fields: Any) -> SearchResult:
        if self.retriever is None:
            self.retriever = Retriever(self.knowledge, self.config)
        return self.retriever.search(Query(text, **fields))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    model, embedder = ColourModel(), WordEmbedder()
    encoder = Encoder(model)
    visual, text = MemoryVectorStore(encoder.dim), MemoryVectorStore(embedder.space.dim)
    lexical, cache = MemoryLexicalStore(), VectorCache(tmp_path / "cache.sqlite", "colours")
    knowledge = Knowledge(
        encoder=lambda: encoder,
        embedder=lambda: embedder,
        visual=lambda: visual,
        text=lambda: text,
        lexical=lambda: lexical,
        image_cache=lambda: cache,
        image_uri=lambda part: f"{part.tenant}/{part.id}",
    )
    made = World(knowledge, model, embedder, SearchConfig(alpha_text=0.5))
    yield made
    if made.retriever:
        made.retriever.close()
    cache.close()


@pytest.fixture
def garden(world: World) -> World:
    """Three pictures with a caption each, and a note about red that belongs to no picture."""
    world.add_pictures(rose="red", leaf="green", sea="blue")
    world.add_chunks(
        chunk_part("rose", "a red rose", images=[0]),
        chunk_part("leaf", "a green leaf", images=[0]),
        chunk_part("sea", "the blue sea", images=[0]),
        chunk_part("note", "red is the sign of warning"),
    )
    return world


SHARES: dict[Branch, float] = {"text_to_image": 0.5, "text": 0.25, "lexical": 0.25}
"""Of the branches that answer a text in `world`."""


def ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


# Which branches answer.


@pytest.mark.parametrize(
    ("mode", "text", "image", "branches"),
    [
        ("auto", "red", None, ["text_to_image", "text", "lexical"]),
        ("auto", None, RED, ["image_to_image"]),
        ("auto", "red", RED, ["image_to_image", "text_to_image", "text", "lexical"]),
        ("text", "red", RED, ["text_to_image", "text", "lexical"]),
        ("image", "red", RED, ["image_to_image"]),
        ("visually_similar", "red", RED, ["image_to_image", "text", "lexical"]),
        ("visually_similar", None, RED, ["image_to_image"]),
    ],
)
def test_the_mode_picks_the_branches(mode: Any, text: Any, image: Any, branches: list[str]) -> None:
    assert list(plan(Query(text, image, mode))) == branches


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (Query(), "empty"),
        (Query("  "), "empty"),
        (Query(None, RED, "text"), "mode text needs a text"),
        (Query("red", None, "image"), "mode image needs a picture"),
        (Query("red", None, "visually_similar"), "mode visually_similar needs a picture"),
        (Query("red", k=0), "k is 0"),
        (Query("red", k=1001), "from 1 to 1000"),
    ],
)
def test_a_query_without_sense_is_refused(query: Query, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        plan(query)


# Fusion of what they return.


def test_a_linked_chunk_credits_its_picture_and_an_unlinked_one_stands_for_itself(garden: World) -> None:
    # text_to_image: rose, leaf, sea;  text: rose, note, leaf, sea;  lexical: rose, note
    result = garden.search("red")
    assert [(hit.id, hit.kind) for hit in result.hits] == [
        ("rose#img-0", "image"),
        ("note#txt-0", "chunk"),
        ("leaf#img-0", "image"),
        ("sea#img-0", "image"),
    ]
    assert result.hits[0].sources == {"text_to_image": 1, "text": 1, "lexical": 1}
    assert result.hits[1].sources == {"text": 2, "lexical": 2}
    assert result.degraded == ()


def test_a_hit_tells_each_branchs_own_score(garden: World) -> None:
    rose, _, leaf, _ = garden.search("red").hits
    assert rose.scores.keys() == rose.sources.keys()
    assert rose.scores["text_to_image"] == pytest.approx(1.0)  # the cosine of one colour with itself
    assert leaf.scores["text_to_image"] < 1
    found = garden.retriever.run_branch("text", Query("red")).found
    assert rose.scores["text"] == found[0].score


def test_a_hit_scores_by_how_far_it_stands_out_in_each_branch(garden: World) -> None:
    """Cosines above the last one's, as the embedder knows no floor; BM25 in shares of its best."""
    hits = garden.search("red").hits
    runs = {branch: garden.retriever.run_branch(branch, Query("red")).found for branch in SHARES}
    cosines, texts, words = ([found.score for found in runs[branch]] for branch in SHARES)
    margins = {
        "rose#img-0": (cosines[0] - cosines[-1], texts[0] - texts[-1], 1.0),
        "note#txt-0": (0.0, texts[1] - texts[-1], words[1] / words[0]),
        "leaf#img-0": (cosines[1] - cosines[-1], texts[2] - texts[-1], 0.0),
        "sea#img-0": (0.0, 0.0, 0.0),
    }
    wanted = {name: np.dot(one, [*SHARES.values()]) for name, one in margins.items()}
    assert {hit.id: hit.score for hit in hits} == pytest.approx(wanted)


def test_by_ranks_a_hit_scores_reciprocal_ranks(garden: World) -> None:
    garden.config = garden.config.model_copy(update={"fusion": "ranks"})
    result = garden.search("red")
    assert ids(result) == ["rose#img-0", "leaf#img-0", "sea#img-0", "note#txt-0"]
    assert [hit.score for hit in result.hits] == pytest.approx(
        [
            0.5 / 61 + 0.25 / 61 + 0.25 / 61,
            0.5 / 62 + 0.25 / 63,
            0.5 / 63 + 0.25 / 64,
            0.25 / 62 + 0.25 / 62,
        ]
    )


def test_pictures_that_look_all_the_same_to_a_text_do_not_crowd_out_what_a_text_says(world: World) -> None:
    """Of 60 pictures that the question is equally far from, none takes a passage's place."""
    world.add_pictures(**{f"picture-{number}": "blue" for number in range(60)})
    world.add_chunks(chunk_part("note", "red is the sign of warning"))
    assert ids(world.search("red"))[0] == "note#txt-0"
    world.config = world.config.model_copy(update={"fusion": "ranks"})
    world.retriever = None
    assert ids(world.search("red"))[0] == "picture-0#img-0"


def test_the_only_picture_counts_by_its_likeness_to_the_questions_own(world: World) -> None:
    """There is no last of many to compare it with."""
    world.add_pictures(rose="red")
    world.add_chunks(chunk_part("note", "zebra"))
    rose = world.search("zebra", image=RED, mode="visually_similar").hits[0]
    assert (rose.id, rose.score) == ("rose#img-0", pytest.approx(0.9 * rose.scores["image_to_image"]))


def test_a_passage_counts_by_what_it_has_above_the_embedders_floor(garden: World) -> None:
    garden.embedder.floor = 0.1
    rose = garden.search("red").hits[0]
    assert rose.scores["text"] > 0.1
    without = rose.score - 0.5 * rose.scores["text_to_image"] - 0.25
    assert without == pytest.approx(0.25 * (rose.scores["text"] - 0.1))


def test_hits_are_cited_from_1_to_n(garden: World) -> None:
    assert [hit.citation_id for hit in garden.search("red").hits] == [1, 2, 3, 4]


def test_a_picture_shows_the_text_that_credits_it_and_its_own_preview(garden: World) -> None:
    rose, note, *_ = garden.search("red").hits
    assert (rose.text, rose.image_uri) == ("a red rose", "/rose#img-0")
    assert (note.text, note.image_uri) == ("red is the sign of warning", None)


def test_k_counts_fused_hits_not_parts(garden: World) -> None:
    assert ids(garden.search("red", k=2)) == ["rose#img-0", "note#txt-0"]
    assert len(garden.search("red", k=100).hits) == 4


@pytest.mark.parametrize(
    ("fields", "alpha"),
    [({"mode": "auto"}, 0.7), ({"mode": "visually_similar"}, 0.9), ({"mode": "text"}, 0.5)],
)
def test_alpha_weighs_the_visual_side_by_mode(world: World, fields: Any, alpha: float) -> None:
    world.config = world.config.model_copy(update={"fusion": "ranks"})
    world.add_pictures(rose="red")
    world.add_chunks(chunk_part("note", "zebra"))
    scores = {hit.id: hit.score for hit in world.search("zebra", image=RED, **fields).hits}
    # Every visual branch ranks the one picture first, every text branch the one chunk.
    assert scores == pytest.approx({"rose#img-0": alpha / 61, "note#txt-0": (1 - alpha) / 61})


def test_alpha_and_the_rank_constant_are_settings(world: World) -> None:
    world.add_pictures(rose="red")
    world.config = SearchConfig(fusion="ranks", alpha_image=0.25, rank_constant=9)
    assert world.search(image=RED).hits[0].score == pytest.approx(0.25 / 10)


def test_a_chunk_of_two_pictures_credits_both_at_its_own_rank() -> None:
    pair = chunk_part("pair", "front and back", images=[0, 1])
    other = chunk_part("other", "alone")
    assert credited_ranks([Found(other, 2.0), Found(pair, 1.0)]) == {
        other.key: 1,
        image_part("pair", 0).key: 2,
        image_part("pair", 1).key: 2,
    }


def test_a_picture_keeps_the_best_rank_among_its_chunks() -> None:
    first, second = (chunk_part("doc", text, n, images=[0]) for n, text in enumerate(("one", "two")))
    assert credited_ranks([Found(first, 2.0), Found(second, 1.0)]) == {image_part("doc").key: 1}


def test_a_credited_picture_that_no_visual_branch_returned_is_fetched(garden: World) -> None:
    garden.add_pictures(night="green")
    garden.add_chunks(chunk_part("night", "zebra zebra", images=[0]))
    garden.config = SearchConfig(candidates=2)  # text_to_image returns the rose and a leaf
    # text and lexical: night first, so .25/61 + .25/61, as much as the rose's .5/61 and later: k = 2
    _, hit = garden.search("red zebra zebra zebra", k=2).hits
    assert (hit.id, hit.kind, hit.image_uri) == ("night#img-0", "image", "/night#img-0")
    assert "text_to_image" not in hit.sources


def test_where_the_picture_was_refused_its_chunk_stands_for_itself(world: World) -> None:
    world.add_chunks(chunk_part("torn", "a red page", images=[0, 1]))  # neither picture was ever stored
    [hit] = world.search("red").hits
    assert (hit.id, hit.kind, hit.image_uri, hit.citation_id) == ("torn#txt-0", "chunk", None, 1)


def test_a_refused_picture_takes_no_place_from_others(world: World) -> None:
    world.add_chunks(
        chunk_part("torn", "red red", images=[0, 1]), chunk_part("note", "red is the sign of warning")
    )
    assert ids(world.search("red", k=2)) == ["torn#txt-0", "note#txt-0"]


def test_a_hit_shows_those_lines_of_its_text_that_were_read_in_its_picture(world: World) -> None:
    volts, spare = Line("380 V", (10.0, 20.0, 90.0, 40.0), 0.9), Line("80 V", (10.0, 50.0, 90.0, 70.0), 0.9)
    read = {"pump#img-0": (volts, spare), "note#img-0": (spare,)}
    world.knowledge = replace(world.knowledge, lines=lambda part: read[part.id])
    world.add_pictures(pump="red", note="green")
    world.add_chunks(chunk_part("pump", "Pump\n380 V", images=[0]), chunk_part("alone", "380 V"))
    lines = {hit.id: hit.lines for hit in world.search("pump 380 v red").hits}
    assert lines == {"pump#img-0": (volts,), "note#img-0": (), "alone#txt-0": ()}


def test_a_picture_query_finds_the_most_similar_first(garden: World) -> None:
    assert ids(garden.search(image=picture((200, 255, 0)))) == ["leaf#img-0", "rose#img-0", "sea#img-0"]


# Filters and tenants.


def test_the_filter_is_pushed_into_every_branch(world: World) -> None:
    for n in range(5):
        year = {"year": 2020 + n}
        world.add_picture(image_part(f"d{n}", metadata=year), "red")
        world.add_chunks(chunk_part(f"d{n}", "red " * (5 - n), metadata=year))
    world.config = SearchConfig(candidates=1)
    world.search("red")
    assert world.retriever is not None
    # The only match is the worst of five; a filter applied afterwards would leave nothing of one candidate.
    query = Query("red", RED, k=1, where=filters.parse("year == 2024"))
    for branch, run in world.retriever.run_branches(query).items():
        assert [found.part.document_id for found in run.found] == ["d4"], branch


def test_equal_ids_of_two_tenants_never_meet(world: World) -> None:
    for tenant, colour in (("acme", "red"), ("umbrella", "blue")):
        world.add_picture(image_part("doc", tenant=tenant), colour)
        world.add_chunks(chunk_part("doc", f"the {tenant} cooler", images=[0], tenant=tenant))
    hits = world.search("acme cooler", where=filters.parse('tenant == "acme"')).hits
    assert [(hit.image_uri, hit.text) for hit in hits] == [("acme/doc#img-0", "the acme cooler")]
    both = world.search("cooler").hits
    assert {(hit.image_uri, hit.text) for hit in both} == {
        ("acme/doc#img-0", "the acme cooler"),
        ("umbrella/doc#img-0", "the umbrella cooler"),
    }


# What fails is said.


def test_a_branch_whose_store_is_down_is_named_and_the_others_answer(garden: World) -> None:
    garden.put(lexical=DownStore())
    result = garden.search("red")
    assert ids(result)[0] == "rose#img-0"
    [message] = result.degraded
    assert message.startswith("lexical: http://127.0.0.1:9")


def test_a_branch_that_failed_leaves_its_weight_to_its_side(garden: World) -> None:
    garden.put(lexical=DownStore())
    garden.config = garden.config.model_copy(update={"fusion": "ranks"})
    assert garden.search("red").hits[0].score == pytest.approx(0.5 / 61 + 0.5 / 61)


def test_without_the_picture_store_a_linked_chunk_stands_for_itself(garden: World) -> None:
    garden.put(visual=DownStore())
    result = garden.search("red")
    assert ids(result)[:2] == ["rose#txt-0", "note#txt-0"]
    assert [message.split(":")[0] for message in result.degraded] == [
        "text_to_image",
        "pictures of passages",
    ]


def test_when_every_branch_is_down_the_search_fails(garden: World) -> None:
    garden.put(lexical=DownStore(), text=DownStore(), visual=DownStore())
    with pytest.raises(StoreUnavailable, match=r"no branch could answer: text_to_image: .*lexical: "):
        garden.search("red")


def test_a_store_that_refuses_the_search_is_an_error_not_a_degradation(garden: World) -> None:
    garden.put(text=MemoryVectorStore(dim=2))
    with pytest.raises(StoreError, match="shape"):
        garden.search("red")


def test_a_branch_that_does_not_end_is_left_behind_at_the_deadline(garden: World) -> None:
    ended = threading.Event()

    class Stuck(MemoryLexicalStore):
        def search(self, *args: Any) -> list[Found]:
            ended.wait(30)
            return []

    garden.put(lexical=Stuck())
    garden.config = SearchConfig(branch_timeout_s=0.5)
    try:
        result = garden.search("red")
    finally:
        ended.set()
    assert result.degraded == ("lexical: no answer within 0.5 s",)
    assert ids(result)[0] == "rose#img-0"


def test_a_language_that_the_text_tower_cannot_read_is_said_not_searched(garden: World) -> None:
    garden.add_chunks(chunk_part("chinese", "红色的花"))
    result = garden.search("红色")
    assert result.degraded == ("text_to_image: colours does not read the language of the question",)
    assert "text_to_image" not in {branch for hit in result.hits for branch in hit.sources}
    assert ids(result)[0] == "chinese#txt-0"


def test_mean_pooled_pictures_cannot_be_found_by_text(garden: World) -> None:
    garden.model.pooling = "mean"
    [message] = garden.search("red").degraded
    assert message == "text_to_image: this index has no text-to-picture space (pooling mean)"


def test_a_query_picture_that_is_none_is_an_error_of_the_query(garden: World) -> None:
    with pytest.raises(BadImage):
        garden.search(image=b"not a picture")


# The cache.


def test_the_second_query_with_a_picture_does_not_encode_it(garden: World) -> None:
    first = garden.search(image=RED)
    second = garden.search(image=RED)
    assert garden.model.pictures_seen == 1
    assert first == second
    garden.search(image=picture("blue"))
    assert garden.model.pictures_seen == 2


def test_one_retriever_answers_several_threads(garden: World) -> None:
    expected = ids(garden.search("red"))
    answers: list[list[str]] = []
    threads = [threading.Thread(target=lambda: answers.append(ids(garden.search("red")))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 8


def test_one_run_alone_gives_the_branchs_own_ranking(world: World) -> None:
    world.add_pictures(rose="red", leaf="green")
    world.add_chunks(chunk_part("leaf", "not red at all", images=[0]))
    everything = world.search("red")
    query = Query("red")
    assert world.retriever
    runs = world.retriever.run_branches(query)
    assert world.retriever.fused(query, runs) == everything
    alone = {branch: world.retriever.fused(query, {branch: run}).hits for branch, run in runs.items()}
    assert [hit.id for hit in alone["text_to_image"]] == ["rose#img-0", "leaf#img-0"]
    assert [(hit.id, hit.sources) for hit in alone["lexical"]] == [("leaf#img-0", {"lexical": 1})]


# With an aligner.


class Reversed:
    """An aligner that likes best what the encoder likes least; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def relevance(self, asked: Sequence[Asked], candidates: Sequence[Candidates]) -> list[Vectors]:
        self.asked += [len(shown.contents) for shown in candidates]
        return [-(shown.vectors @ one.visual) for one, shown in zip(asked, candidates, strict=True)]


@pytest.fixture
def aligned(garden: World) -> World:
    garden.put(aligner=Reversed())
    garden.config = garden.config.model_copy(update={"alpha_text": 1.0})
    return garden


def test_an_aligner_reorders_the_pictures_of_a_text(aligned: World) -> None:
    pictures = [hit for hit in aligned.search("red").hits if hit.kind == "image"]
    assert [hit.sources["aligner"] for hit in pictures] == [1, 2, 3]
    assert pictures[-1].id == "rose#img-0"
    assert pictures[-1].sources["text_to_image"] == 1  # told, though it does not count


def test_ranks_of_an_aligner_are_worth_what_those_of_the_encoder_were(aligned: World) -> None:
    found = aligned.search("red").hits
    cosines = sorted((hit.scores["text_to_image"] for hit in found if "aligner" in hit.sources), reverse=True)
    first = next(hit for hit in found if hit.sources.get("aligner") == 1)
    assert first.score == pytest.approx(cosines[0] - cosines[-1])
    assert first.scores["text_to_image"] < cosines[0]


def test_only_the_first_candidates_are_reordered(aligned: World) -> None:
    aligned.config = aligned.config.model_copy(update={"aligner": AlignerConfig(model="x", candidates=2)})
    hits = aligned.search("red").hits
    ranks = [hit.sources["text_to_image"] for hit in hits if "text_to_image" in hit.sources]
    assert ranks == [2, 1, 3]
    assert aligned.knowledge.aligner().asked == [2]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "image", "mode", "aligns"),
    [
        ("red", None, "auto", True),
        ("red", RED, "auto", True),
        ("red", RED, "visually_similar", False),  # it leans on the picture
        ("red", RED, "image", False),
        (None, RED, "auto", False),
    ],
)
def test_an_aligner_reads_texts_only(
    aligned: World, text: str | None, image: bytes | None, mode: Any, aligns: bool
) -> None:
    hits = aligned.search(text, image=image, mode=mode).hits
    assert any("aligner" in hit.sources for hit in hits) == aligns


def test_an_aligner_that_is_down_is_named_and_the_encoders_order_stands(aligned: World) -> None:
    class Down:
        def relevance(self, asked: Any, candidates: Any) -> Any:
            raise StoreUnavailable("the aligner does not answer")

    aligned.put(aligner=Down())
    result = aligned.search("red")
    assert result.degraded == ("aligner: the aligner does not answer",)
    assert result.hits[0].id == "rose#img-0"


def test_a_candidate_whose_vector_is_not_there_keeps_the_encoders_place_behind(aligned: World) -> None:
    store = aligned.knowledge.visual()
    every = store.vectors
    store.vectors = lambda keys: dict(list(every(keys).items())[1:])  # type: ignore[method-assign]
    hits = aligned.search("red").hits
    assert [hit.sources["aligner"] for hit in hits if hit.id == "rose#img-0"] == [3]
    store.vectors = lambda keys: {}  # type: ignore[method-assign]
    assert aligned.search("red").hits[0].id == "rose#img-0"


def test_an_aligner_that_does_not_end_is_left_behind_at_the_deadline(aligned: World) -> None:
    over = threading.Event()

    class Slow:
        def relevance(self, asked: Any, candidates: Any) -> Any:
            over.wait(10)
            return [np.zeros(len(shown.contents)) for shown in candidates]

    aligned.put(aligner=Slow())
    aligned.config = aligned.config.model_copy(update={"branch_timeout_s": 0.5})
    result = aligned.search("red")
    over.set()
    assert result.degraded == ("aligner: no answer within 0.5 s",)
    assert result.hits[0].id == "rose#img-0"


# Near-duplicates.


def test_of_pictures_that_look_the_same_one_hit_stands_for_all_where_they_collapse(world: World) -> None:
    world.add_pictures(rose="red", copy="red", leaf="green")
    world.knowledge = replace(
        world.knowledge, likeness=lambda: {image_part("copy").key: image_part("rose").key}
    )
    assert {hit.document_id for hit in world.search(image=RED, k=2).hits} == {"rose", "copy"}
    world.retriever = None
    world.config = world.config.model_copy(update={"near_duplicates": "collapse"})
    first, second = world.search(image=RED, k=2).hits
    assert first.document_id in ("rose", "copy")
    assert (second.document_id, second.citation_id) == ("leaf", 2)
