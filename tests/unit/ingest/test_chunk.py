"""Chunks: bounds, cuts at sentences in English and Chinese, and links to pictures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.core.types import Document, Passage
from pipelines.ingest.chunk import ChunkConfig, chunks

SMALL = ChunkConfig(max_chars=60, max_bytes=200, merge_chars=0)


def split(*passages: Passage | str, config: ChunkConfig = SMALL) -> list[str]:
    whole = tuple(p if isinstance(p, Passage) else Passage(p) for p in passages)
    return [chunk.text for chunk in chunks(Document("d", "s", whole), config)]


def test_a_chunk_carries_its_document_and_its_pictures() -> None:
    document = Document(
        "d", "s", (Passage("one", (1,)), Passage("two")), ("a", "b"), ("", ""), {"year": 2020}, tenant="t"
    )
    first, second = chunks(document, SMALL)
    assert (first.id, first.kind, first.document_id, first.source) == ("d#txt-0", "chunk", "d", "s")
    assert (first.image_ids, second.image_ids) == (("d#img-1",), ())
    assert (second.id, second.text, second.tenant, dict(second.metadata)) == (
        "d#txt-1",
        "two",
        "t",
        {"year": 2020},
    )


def test_long_english_is_cut_after_sentences() -> None:
    text = 'Mr. Fox ran off quickly to the wood. "Why?" asked the hen. He said nothing at all to her.'
    assert split(text) == [
        'Mr. Fox ran off quickly to the wood. "Why?" asked the hen.',
        "He said nothing at all to her.",
    ]


def test_long_chinese_is_cut_after_sentences() -> None:
    first, second = "图层是图像的一部分，可以单独编辑" * 3 + "。", "“它在另外那个图层的上面吗？”她问。"
    assert split(first + second) == [first, second]
    assert split("甲" * 40 + "！" + "乙" * 40 + "；丙") == ["甲" * 40 + "！", "乙" * 40 + "；丙"]


def test_a_quotation_mark_stays_with_its_sentence() -> None:
    assert split("他说：“" + "好" * 30 + "。”" + "后" * 40) == ["他说：“" + "好" * 30 + "。”", "后" * 40]


def test_a_long_sentence_is_cut_at_clauses_then_words_then_anywhere() -> None:
    assert split("a" * 40 + ", " + "b" * 40) == ["a" * 40 + ",", "b" * 40]
    assert split("a" * 40 + " " + "b" * 40) == ["a" * 40, "b" * 40]
    assert split("a" * 100) == ["a" * 60, "a" * 40]


def test_bytes_are_bounded_too() -> None:
    pieces = split("😀" * 120, config=ChunkConfig(max_chars=100, max_bytes=200, merge_chars=0))
    assert [len(piece) for piece in pieces] == [50, 50, 20]


def test_each_piece_keeps_its_heading() -> None:
    assert split("Head\n" + "a" * 50 + ". " + "b" * 50) == ["Head\n" + "a" * 50 + ".", "Head\n" + "b" * 50]


def test_a_heading_that_is_too_long_is_text() -> None:
    assert split("h" * 55 + "\nbody") == ["h" * 55 + " body"]


def test_short_neighbours_with_the_same_pictures_are_one_chunk() -> None:
    config = ChunkConfig(max_chars=60, max_bytes=200, merge_chars=30)
    passages = [Passage("A\none"), Passage("A\ntwo"), Passage("A › B\nthree"), Passage("C\nfour", (0,))]
    assert split(*passages, config=config) == ["A\none\ntwo\nB\nthree", "C\nfour"]
    assert split("x" * 20, "y" * 20, config=config) == ["x" * 20, "y" * 20]


def test_a_caption_and_what_ocr_read_in_its_picture_are_one_chunk() -> None:
    caption, line = Passage("Plate of the pump", (0,)), Passage("380 V", (0,), "pump.png")
    config = ChunkConfig(max_chars=60, max_bytes=200, merge_chars=30)
    of_picture, of_page = (
        chunks(Document("d", source, (caption, line), ("pump.png",)), config)
        for source in ("pump.png", "page.html")
    )
    assert [(chunk.text, chunk.source) for chunk in of_picture] == [("Plate of the pump\n380 V", "pump.png")]
    assert [chunk.source for chunk in of_page] == ["page.html", "pump.png"]


def test_overlap_repeats_the_end_of_the_piece_before() -> None:
    config = ChunkConfig(max_chars=60, max_bytes=200, merge_chars=0, overlap_chars=10)
    assert split("First of all comes this rather long sentence. Then another.", config=config) == [
        "First of all comes this rather long sentence. Then another."
    ]
    assert split("First of all comes this rather long sentence. Then another one.", config=config) == [
        "First of all comes this rather long sentence.",
        "sentence. Then another one.",
    ]


def test_text_is_tidied() -> None:
    assert split(" a\t\tb\x00\ud800\u200b  c\u00a0d ", "", " \ufeff ") == ["a b c d"]


@pytest.mark.parametrize("bad", [{"merge_chars": 900}, {"overlap_chars": 300}, {"max_chars": 5}, {"size": 1}])
def test_settings_out_of_proportion_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        ChunkConfig(**bad)


texts = st.text(st.sampled_from("ab .,!\n\t甲乙。，！？”😀é\u200b\ud800") | st.characters(), max_size=400)


@given(st.lists(st.builds(Passage, texts, st.sampled_from([(), (0,), (1,)])), max_size=6))
def test_nothing_is_lost_and_every_chunk_is_within_the_bounds(passages: list[Passage]) -> None:
    config = ChunkConfig(max_chars=50, max_bytes=200, merge_chars=40)
    made = chunks(Document("d", "s", tuple(passages), ("a", "b")), config)
    for chunk in made:
        assert 0 < len(chunk.text) <= 50
        assert len(chunk.text.encode()) <= 200
    # Headings are repeated, so every character is there at least as often as in the passages' words.
    given_letters = "".join(p.text for p in passages if "\n" not in p.text)
    for letter in "ab甲乙😀é":
        assert sum(chunk.text.count(letter) for chunk in made) >= given_letters.count(letter)
    assert chunks(Document("d", "s", tuple(passages), ("a", "b")), config) == made
