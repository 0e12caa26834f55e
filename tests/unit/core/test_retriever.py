"""Hybrid retrieval over stores in memory. The scores are worked by hand."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import chunk_part, image_part, picture
from retriever_world import RED, World, ids

from pipelines.core import filters
from pipelines.core.errors import UsageError
from pipelines.core.hits import best_of, credited_ranks
from pipelines.core.retriever import Branch, Query, SearchConfig, plan
from pipelines.core.types import Found, Line

SHARES: dict[Branch, float] = {"text_to_image": 0.5, "text": 0.5 * 0.33, "lexical": 0.5 * 0.67}
"""Of the branches that answer a text in `world`."""


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
        (Query("red \0"), "holds a NUL character"),
        (Query("\ud800 red", RED), "holds half a surrogate pair"),
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
    """Cosines above the last one's, as the embedder knows no floor; what words found, from 0 on."""
    hits = garden.search("red").hits
    runs = {branch: garden.retriever.run_branch(branch, Query("red")).found for branch in SHARES}
    cosines, texts, words = ([found.score for found in runs[branch]] for branch in SHARES)
    margins = {
        "rose#img-0": (cosines[0] - cosines[-1], texts[0] - texts[-1], words[0]),
        "note#txt-0": (0.0, texts[1] - texts[-1], words[1]),
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
            1 / 61,
            SHARES["text_to_image"] / 62 + SHARES["text"] / 63,
            SHARES["text_to_image"] / 63 + SHARES["text"] / 64,
            (SHARES["text"] + SHARES["lexical"]) / 62,
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


@pytest.mark.parametrize(
    ("asked", "is_last"),
    [
        ({}, True),
        ({"image": RED}, True),
        ({"k": 5}, False),  # there are but three: they are all that have the word
    ],
)
def test_words_that_many_passages_share_tell_nothing(
    world: World, asked: dict[str, Any], is_last: bool
) -> None:
    world.config = SearchConfig(candidates=2)
    world.add_pictures(rose="red")
    world.add_chunks(*(chunk_part(f"note-{n}", "zebra") for n in range(3)))
    world.search("zebra")
    assert world.retriever
    run = world.retriever.run_branches(Query("zebra", **({"k": 1} | asked)))["lexical"]
    assert run.floor == (run.found[-1].score if is_last else 0.0)


def test_a_passage_counts_by_what_it_has_above_the_embedders_floor(garden: World) -> None:
    garden.embedder.floor = 0.1
    rose = garden.search("red").hits[0]
    assert rose.scores["text"] > 0.1
    others = sum(SHARES[branch] * rose.scores[branch] for branch in ("text_to_image", "lexical"))
    assert rose.score - others == pytest.approx(SHARES["text"] * (rose.scores["text"] - 0.1))


def test_of_several_views_a_picture_counts_by_the_best() -> None:
    one, other, third = (image_part(name) for name in ("one", "other", "third"))
    whole, inside = [Found(one, 0.9), Found(other, 0.5)], [Found(other, 0.8), Found(third, 0.6)]
    assert best_of([whole, inside], 2) == [Found(one, 0.9), Found(other, 0.8)]
    assert best_of([whole], 2) is whole


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
    [({"mode": "auto"}, 0.8), ({"mode": "visually_similar"}, 0.9), ({"mode": "text"}, 0.5)],
)
def test_alpha_weighs_the_visual_side_by_mode(world: World, fields: Any, alpha: float) -> None:
    world.config = world.config.model_copy(update={"fusion": "ranks", "alpha_image": 0.8})
    world.add_pictures(rose="red")
    world.add_chunks(chunk_part("note", "zebra"))
    scores = {hit.id: hit.score for hit in world.search("zebra", image=RED, **fields).hits}
    # Every visual branch ranks the one picture first, every text branch the one chunk.
    assert scores == pytest.approx({"rose#img-0": alpha / 61, "note#txt-0": (1 - alpha) / 61})


def test_looks_have_the_image_share_of_the_visual_side(world: World) -> None:
    world.config = SearchConfig(fusion="ranks", alpha_image=0.5, image_share=0.8)
    world.add_pictures(rose="red", leaf="green")
    scores = {hit.document_id: hit.score for hit in world.search("green", image=RED).hits}
    assert scores["rose"] == pytest.approx(0.5 * (0.8 / 61 + 0.2 / 62))
    assert scores["leaf"] == pytest.approx(0.5 * (0.8 / 62 + 0.2 / 61))


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


@pytest.fixture
def meadow(world: World) -> World:
    """Two pictures and their passages; and a passage of no picture."""
    world.add_pictures(rose="red", night="green")
    world.add_chunks(
        chunk_part("rose", "a red rose", images=[0]),
        chunk_part("night", "zebra one", 0, images=[0]),
        chunk_part("night", "zebra two", 1, images=[0]),
        chunk_part("note", "zebra"),
    )
    return world


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ('kind == "chunk"', {"rose#txt-0", "night#txt-0", "night#txt-1", "note#txt-0"}),
        ('not kind == "image"', {"rose#txt-0", "night#txt-0", "night#txt-1", "note#txt-0"}),
        ('id == "night#txt-1"', {"night#txt-1"}),
        ('id == "night#img-0"', {"night#img-0"}),
        ('source == "/night.txt"', {"night#txt-0"}),
        ('source == "/night.png"', {"night#img-0"}),
        ('kind == "image" and document_id == "note"', set()),
    ],
)
def test_every_hit_matches_the_filter_itself(meadow: World, where: str, wanted: set[str]) -> None:
    assert set(ids(meadow.search("zebra", where=filters.parse(where)))) == wanted


def test_words_find_pictures_where_pictures_alone_are_wanted(meadow: World) -> None:
    first, second = meadow.search("zebra", where=filters.parse('kind == "image"')).hits
    assert (first.id, first.text, second.id) == ("night#img-0", "zebra one", "rose#img-0")
    assert {"text", "lexical"} <= set(first.sources)


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
