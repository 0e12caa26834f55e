"""From a question to a cited answer, with a searcher and a generator that say what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

import pytest
from shown import byte_profile, hit, jpeg, load

from pipelines.core.answer import AnswerConfig, Answerer, Question, Retrieved, Said
from pipelines.core.errors import GeneratorUnavailable, StoreUnavailable
from pipelines.core.generator import GeneratorConfig, Prompt, Sampling
from pipelines.core.prompts import NO_ANSWER, Turn
from pipelines.core.retriever import Query
from pipelines.core.types import Answer, Citation, Hit, PlacedBox, SearchResult, Usage, answer_dict


@dataclass
class Searcher:
    hits: Sequence[Hit] = ()
    degraded: tuple[str, ...] = ()
    asked: list[Query] = field(default_factory=list)

    async def search(self, query: Query) -> SearchResult:
        self.asked.append(query)
        return SearchResult(tuple(self.hits[: query.k]), self.degraded)


@dataclass
class Parrot:
    """Says its pieces; `fails` comes after them."""

    pieces: Sequence[str | Usage]
    fails: Exception | None = None
    prompts: list[Prompt] = field(default_factory=list)
    sampled: list[Sampling] = field(default_factory=list)
    closed: int = 0

    async def stream(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[str | Usage]:
        self.prompts.append(prompt)
        self.sampled.append(sampling)
        try:
            for piece in self.pieces:
                await asyncio.sleep(0)
                yield piece
            if self.fails:
                raise self.fails
        finally:
            self.closed += 1


HITS = [hit("spec#img-0", "a plate"), hit("note#txt-0", "some text", "chunk")]
GENERATOR = GeneratorConfig(max_tokens=64, max_pictures=2)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return byte_profile(tmp_path_factory.mktemp("model"))


def answerer(profile, searcher, generator, **config) -> Answerer:
    return Answerer(searcher, generator, load, profile, AnswerConfig(**config), GENERATOR)


def ask(made: Answerer, text="How wide?", **question) -> Answer:
    return asyncio.run(made.answer(Question(Query(text), **question)))


def test_an_answer_cites_its_evidence_and_marks_the_picture(profile) -> None:
    answer = ask(answerer(profile, Searcher(HITS), Parrot(["90 mm ", "[1] [[0,250,", "999,749]]", " [5]."])))
    assert answer.answer == "90 mm [1]."
    assert answer.citations == (Citation(1, "spec#img-0"),)
    assert answer.boxes == (
        PlacedBox(1, (0.0, pytest.approx(0, abs=0.05), 80.0, pytest.approx(40, abs=0.05)), "90 mm"),
    )
    assert answer.dropped == {"citations": 1, "boxes": 0}
    assert [one.citation_id for one in answer.hits] == [1, 2]
    assert set(answer.timings_ms) == {"retrieve", "prompt", "generate", "first_token", "total"}
    assert not answer.refused
    assert set(answer_dict(answer)) >= {"answer", "citations", "boxes", "hits", "degraded", "timings_ms"}


def test_a_stream_tells_what_was_found_then_the_words_then_the_whole(profile) -> None:
    made = answerer(profile, Searcher(HITS, ("lexical: down",)), Parrot(["Wide ", "[2]"]))

    async def collect() -> list[Retrieved | Said | Answer]:
        return [event async for event in made.stream(Question(Query("How wide?")))]

    found, *said, answer = asyncio.run(collect())
    assert found == Retrieved((HITS[0], replace(HITS[1], citation_id=2)), ("lexical: down",))
    assert "".join(event.text for event in said) == answer.answer == "Wide [2]"
    assert answer.degraded == ("lexical: down",)


def test_an_answer_tells_what_it_took(profile) -> None:
    usage = Usage(prompt_tokens=312, completion_tokens=2, cut=True)
    answer = ask(answerer(profile, Searcher(HITS), Parrot(["Wide ", "[2]", usage])))
    assert answer.answer == "Wide [2]"
    assert answer_dict(answer)["usage"] == {"prompt_tokens": 312, "completion_tokens": 2, "cut": True}
    assert ask(answerer(profile, Searcher([]), Parrot(["never asked"]))).usage == Usage()


@pytest.mark.parametrize("words", NO_ANSWER.values())
def test_a_refusal_cites_nothing(profile, words) -> None:
    answer = ask(answerer(profile, Searcher(HITS), Parrot([words, " [1]"])))
    assert answer.refused
    assert answer.citations == answer.boxes == ()


def test_without_evidence_the_model_is_not_asked(profile) -> None:
    parrot = Parrot(["anything"])
    assert ask(answerer(profile, Searcher(), parrot)).answer == NO_ANSWER["en"]
    assert ask(answerer(profile, Searcher(), parrot), "多宽?").answer == NO_ANSWER["zh"]
    assert parrot.prompts == []


def test_a_picture_alone_is_described(profile) -> None:
    parrot = Parrot(["A plate [[0,0,999,999]]"])
    made = answerer(profile, Searcher(), parrot)
    answer = asyncio.run(made.answer(Question(Query(image=jpeg(50, 50)))))
    assert answer.boxes == (PlacedBox("query", (0.0, 0.0, 50.0, 50.0), "A plate"),)
    assert parrot.prompts[0].turns[-1].text.endswith("picture 1 <image>\nQuestion: Describe the picture.")


def test_a_follow_up_is_searched_with_what_it_follows_and_asked_as_it_is(profile) -> None:
    searcher, parrot = Searcher(HITS), Parrot(["90"])
    history = (Turn("user", "Which plate?"), Turn("assistant", "Plate A [1]"))
    ask(answerer(profile, searcher, parrot), "And how wide?", history=history)
    assert searcher.asked[0].text == "Which plate?\nAnd how wide?"
    assert parrot.prompts[0].turns[0] == history[0]
    assert parrot.prompts[0].turns[-1].text.endswith("Question: And how wide?")
    ask(answerer(profile, searcher, parrot, follow_up="off"), "And how wide?", history=history)
    assert searcher.asked[1].text == "And how wide?"


def test_a_follow_up_to_a_picture_alone_is_searched_by_its_own_words(profile) -> None:
    searcher, parrot = Searcher(HITS), Parrot(["90"])
    history = (Turn("user", ""), Turn("assistant", "Plate A [1]"))
    ask(answerer(profile, searcher, parrot), "How wide?", history=history)
    assert searcher.asked[0].text == "How wide?"
    assert parrot.prompts[0].turns[:-1] == (Turn("user", "Describe the picture."), history[1])


def test_no_more_hits_are_asked_for_than_are_shown(profile) -> None:
    searcher = Searcher(HITS)
    ask(answerer(profile, searcher, Parrot(["x"]), evidence=1))
    assert searcher.asked[0].k == 1


def test_sampling_of_the_question_wins(profile) -> None:
    parrot = Parrot(["x"])
    made = answerer(profile, Searcher(HITS), parrot)
    ask(made)
    ask(made, sampling=Sampling(8, 0.5, 0.9, "school"))
    assert parrot.sampled == [Sampling(64, 0.0, 1.0), Sampling(8, 0.5, 0.9, "school")]


def test_failures_reach_the_caller(profile) -> None:
    class Down:
        async def search(self, query: Query) -> SearchResult:
            raise StoreUnavailable("down")

    with pytest.raises(StoreUnavailable):
        ask(answerer(profile, Down(), Parrot([])))
    with pytest.raises(GeneratorUnavailable):
        ask(answerer(profile, Searcher(HITS), Parrot(["half"], GeneratorUnavailable("gone"))))


def test_closing_the_stream_ends_the_generation(profile) -> None:
    parrot = Parrot(["a "] * 1000)
    made = answerer(profile, Searcher(HITS), parrot)

    async def leave() -> None:
        stream = made.stream(Question(Query("How wide?")))
        async for event in stream:
            if isinstance(event, Said):
                break
        await stream.aclose()

    asyncio.run(leave())
    assert parrot.closed == 1


def test_a_long_question_stays_whole_and_what_it_follows_is_cut(profile) -> None:
    searcher = Searcher(HITS)
    made = answerer(replace(profile, context=20_000), searcher, Parrot(["x"]))
    asked = "Which voltage " + "v" * 1900
    earlier = (Turn("user", "e" * 500), Turn("assistant", "no"))
    ask(made, "Which pump? " + "p" * 7000)
    ask(made, asked, history=earlier)
    ask(made, "Which pump? " + "p" * 7000, history=earlier)
    whole, followed, alone = (query.text for query in searcher.asked)
    assert whole == alone == "Which pump? " + "p" * 7000
    assert followed == "e" * (2000 - len(asked) - 1) + "\n" + asked
