"""What stands in a question's picture is searched as words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from fakes import chunk_part, picture
from retriever_world import RED, World, ids

from pipelines.core.errors import BadReading, UsageError
from pipelines.core.retriever import Query, SearchConfig


@pytest.fixture
def plates(world: World) -> World:
    """Two plates that look alike, and a text about each. The words of a picture are told by `reads`."""
    world.add_pictures(pump="red", fan="red")
    world.add_chunks(
        chunk_part("pump", "pump LK-847 weighs 5 kg"), chunk_part("fan", "fan MX-112 weighs 9 kg")
    )
    return reads(world, lambda data: "MX-112")


def reads(world: World, read: Callable[[bytes], str]) -> World:
    world.knowledge = replace(world.knowledge, read=read)
    return world


def test_the_words_in_a_picture_are_searched_beside_the_question(plates: World) -> None:
    assert ids(plates.search("weighs", image=RED)).index("fan#txt-0") < ids(
        plates.search("weighs", image=RED)
    ).index("pump#txt-0")
    sources = {hit.id: hit.sources for hit in plates.search("weighs", image=RED).hits}
    assert sources["fan#txt-0"]["lexical"] == 1


def test_a_picture_alone_is_searched_with_by_its_words_too(plates: World) -> None:
    assert "fan#txt-0" in ids(plates.search(image=RED))
    reads(plates, lambda data: "").retriever = None
    assert ids(plates.search(image=RED)) == ["pump#img-0", "fan#img-0"]


def test_what_a_picture_shows_is_sought_by_the_question_alone(plates: World) -> None:
    shown: list[str] = []
    plates.knowledge = replace(plates.knowledge, watch=lambda branch, vector: shown.append(branch))
    reads(plates, lambda data: "green").search("red", image=picture("blue"))
    assert sorted(shown) == ["image_to_image", "text", "text_to_image"]
    assert plates.retriever
    run = plates.retriever.run_branches(Query("red", picture("blue")))["text_to_image"]
    assert run.found[0].score == pytest.approx(1.0)


@pytest.mark.parametrize(
    "asked",
    [
        {"text": "red", "mode": "text", "image": RED},
        {"image": RED, "mode": "image"},
        {"text": "red", "image": RED, "mode": "visually_similar"},
        {"text": "red"},
    ],
)
def test_a_picture_is_read_in_mode_auto_alone(plates: World, asked: dict[str, Any]) -> None:
    def never(data: bytes) -> str:
        raise AssertionError("it was read")

    assert reads(plates, never).search(**asked).hits


def test_a_picture_that_cannot_be_read_is_told_and_costs_its_words_alone(plates: World) -> None:
    def fails(data: bytes) -> str:
        raise BadReading("OCR failed (a test)")

    found = reads(plates, fails).search("pump", image=RED)
    assert found.degraded == ("reading: OCR failed (a test)",)
    plates.knowledge, plates.retriever = replace(plates.knowledge, read=None), None
    assert found.hits == plates.search("pump", image=RED).hits


def test_a_reader_that_takes_too_long_leaves_time_for_the_question(plates: World) -> None:
    ended = threading.Event()
    plates.config = SearchConfig(branch_timeout_s=2)
    reads(plates, lambda data: str(ended.wait(60)))
    found = plates.search("pump", image=RED)
    ended.set()
    assert found.degraded == ("reading: no answer within 2 s",)
    assert "pump#txt-0" in ids(found)


def test_an_empty_question_stays_one(plates: World) -> None:
    with pytest.raises(UsageError, match="the query is empty"):
        plates.search(" ")
