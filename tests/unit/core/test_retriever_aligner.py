"""An aligner in the retriever: what it is shown, and what its order is worth."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from fakes import Reversed
from memory_stores import MemoryLexicalStore
from retriever_world import RED, World

from pipelines.core.aligner import AlignerConfig
from pipelines.core.errors import StoreUnavailable
from pipelines.core.types import Found


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


def test_a_branch_that_hangs_takes_no_time_of_the_aligner(aligned: World) -> None:
    over = threading.Event()

    class Hanging(MemoryLexicalStore):
        def search(self, *args: Any, **kwargs: Any) -> list[Found]:
            over.wait(60)
            return []

    class Thinking(Reversed):
        def relevance(self, asked: Any, candidates: Any) -> Any:
            over.wait(0.1)
            return super().relevance(asked, candidates)

    aligned.put(lexical=Hanging(), aligner=Thinking())
    aligned.config = aligned.config.model_copy(update={"branch_timeout_s": 2.0})
    result = aligned.search("red")
    over.set()
    assert result.degraded == ("lexical: no answer within 2 s",)
    assert any("aligner" in hit.sources for hit in result.hits)


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
