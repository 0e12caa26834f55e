"""Captions, asked of a real server over HTTP that says what it is told."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from chat_server import Scripted, completion
from fakes import picture, take_away
from pydantic import SecretStr

from pipelines.core import images
from pipelines.core.errors import ModelUnavailable, UsageError
from pipelines.core.types import Document, Part, Passage
from pipelines.ingest import captions
from pipelines.ingest.captions import CaptionPictures
from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.config import CaptionConfig
from pipelines.ingest.plan import ITEMS
from pipelines.ingest.rows import row_part
from pipelines.ingest.sources import Item, Parsed, SourceConfig, list_items
from pipelines.ingest.stages import ParseItems
from pipelines.ingest.tally import Tally, pictures_told

MIB = 2**20
REFUSAL = (400, {}, b'{"error": {"message": "too large"}}')


class Gallery:
    """A folder of pictures, and a server that describes them."""

    def __init__(self, root: Path, server: Scripted) -> None:
        self.root, self.server = root, server
        self.tally = Tally(root / "tally")
        self.folder = root / "corpus"
        self.folder.mkdir()

    def config(self, **settings: Any) -> CaptionConfig:
        few = {"url": self.server.url, "model": "m", "retries": 0, "patience_s": 0.0}
        return CaptionConfig(**few | settings)

    def stage(self, at_once: int = 1, **settings: Any) -> CaptionPictures:
        return CaptionPictures(
            self.config(**settings), self.root / "captions", MIB, at_once=at_once, count=self.tally
        )

    def document(self, *data: bytes, captions: tuple[str, ...] = ()) -> Parsed:
        for n, one in enumerate(data):
            (self.folder / f"{n}.png").write_bytes(one)
        addresses = tuple(str(self.folder / f"{n}.png") for n in range(len(data)))
        return Parsed(Document("d", "/d.json", (Passage("own text"),), addresses, captions))

    def captioned(
        self, *data: bytes, captions: tuple[str, ...] = (), at_once: int = 1, **settings: Any
    ) -> Parsed:
        [parsed] = self.stage(at_once, **settings)([self.document(*data, captions=captions)])
        return parsed

    def parse(self, read_pictures: Any = None, **settings: Any) -> dict[str, dict[str, Any]]:
        items = [asdict(i) for i in list_items([str(self.folder)], SourceConfig()) if isinstance(i, Item)]
        stage = ParseItems(SourceConfig(), ChunkConfig(), read_pictures, self.stage(**settings), self.tally)
        return {row["id"]: row for row in stage(pa.Table.from_pylist(items, schema=ITEMS)).to_pylist()}


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Scripted.running() as server:
        server.says("A red square.")
        yield Gallery(tmp_path, server)


def said(parsed: Parsed) -> list[str]:
    return [passage.text for passage in parsed.document.passages if passage.images]


# What is asked, and what becomes of it.


def test_a_caption_is_a_passage_of_its_picture_and_what_its_hit_shows(gallery: Gallery) -> None:
    parsed = gallery.captioned(picture("red"))
    [address] = parsed.document.images
    assert parsed.document.passages == (Passage("own text"), Passage("A red square.", (0,), address))
    assert parsed.document.captions == ("A red square.",)
    assert parsed.rejected == ()


def test_the_model_is_sent_the_upright_picture_and_the_prompt(gallery: Gallery) -> None:
    gallery.captioned(picture("red"), prompt="What is it?", max_tokens=7, api_key=SecretStr("sk-secret"))
    [(path, key, body)] = gallery.server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer sk-secret")
    assert (body["model"], body["max_tokens"]) == ("m", 7)
    assert gallery.server.texts() == "What is it?"
    assert gallery.server.pictures() == [images.preview(images.decode(picture("red")))]


def test_pictures_with_a_caption_of_their_own_are_asked_about_only_where_all_are(gallery: Gallery) -> None:
    own = ("Own words.", "")
    parsed = gallery.captioned(picture("red"), picture("blue"), captions=own)
    assert [passage.images for passage in parsed.document.passages] == [(), (1,)]
    both = gallery.captioned(picture("red"), picture("blue"), captions=own, pictures="all")
    assert [passage.images for passage in both.document.passages] == [(), (0,), (1,)]
    assert both.document.captions == ("Own words.", "A red square.")


def test_words_of_a_model_are_one_plain_line_of_bounded_length(gallery: Gallery) -> None:
    gallery.server.says("A\x00 red\n\n\x1b[2Jsquare\u200b, " + "and so on " * 1000)
    [caption] = said(gallery.captioned(picture("red"), max_chars=40))
    assert caption == "A red [2Jsquare, and so on and so on…"
    assert len(caption) <= 40


# It is asked once.


def test_a_picture_is_asked_about_once_whatever_its_name(gallery: Gallery) -> None:
    data = picture("red"), picture("red"), picture("blue")
    first = gallery.captioned(*data, at_once=3)
    assert len(gallery.server.asked) == 2
    assert gallery.captioned(*data) == first
    assert len(gallery.server.asked) == 2


@pytest.mark.parametrize(
    "changed",
    [{"model": "n"}, {"prompt": "What?"}, {"max_tokens": 9}, {"max_chars": 9}, {"extra_body": {"seed": 1}}],
)
def test_another_model_or_question_asks_again_and_is_another_fingerprint(
    gallery: Gallery, changed: dict[str, Any]
) -> None:
    gallery.captioned(picture("red"))
    gallery.captioned(picture("red"), **changed)
    assert len(gallery.server.asked) == 2
    assert captions.fingerprint(gallery.config()) != captions.fingerprint(gallery.config(**changed))


def test_where_the_model_is_served_is_no_other_fingerprint(gallery: Gallery) -> None:
    base = captions.fingerprint(gallery.config())
    assert captions.fingerprint(gallery.config(url="http://elsewhere/v1", concurrency=9)) == base
    assert captions.fingerprint(gallery.config(pictures="all")) != base
    assert captions.fingerprint(None) == {}


@pytest.mark.parametrize("damage", [b"", b"[]", b"\0" * 80])
def test_the_picture_of_a_damaged_caption_is_asked_about_again(
    gallery: Gallery, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    first = gallery.captioned(picture("red"))
    [kept] = (gallery.root / "captions").rglob("*.json")
    whole = kept.read_bytes()
    kept.write_bytes(damage)
    assert gallery.captioned(picture("red")) == first
    assert kept.read_bytes() == whole
    assert f"{kept} is damaged" in caplog.text


# Failures.


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (REFUSAL, "answers 400: too large"),
        ((500, {}, b"no"), "answers 500: no"),
        ((200, {}, b"<html>"), "no chat completion"),
        ((200, {}, completion(" \n")), "says nothing"),
        ((200, {}, completion(None)), "says nothing"),
        ((200, {}, b"[" * 100_000), "no chat completion"),
    ],
)
def test_a_failure_costs_that_pictures_caption_and_is_told(gallery: Gallery, reply: Any, reason: str) -> None:
    gallery.server.replies = [reply, (200, {}, completion("A blue square."))]
    parsed = gallery.captioned(picture("red"), picture("blue"))
    assert said(parsed) == ["A blue square."]
    [told] = parsed.rejected
    assert (told.document_id, told.source, told.stage) == ("d", parsed.document.images[0], "caption")
    assert told.reason.startswith(f"{told.source}: the captioner at {gallery.server.url} ")
    assert reason in told.reason
    assert gallery.captioned(picture("red"), picture("blue")).rejected == ()  # a failure is not remembered


def test_a_reply_that_comes_too_late_is_a_failure_of_its_picture(gallery: Gallery) -> None:
    gallery.server.late_s = 0.5
    [told] = gallery.captioned(picture("red"), timeout_s=0.1).rejected
    assert "does not answer (ReadTimeout" in told.reason


def test_a_broken_picture_is_left_to_the_stage_that_loads_it(gallery: Gallery) -> None:
    parsed = gallery.captioned(picture("red")[:60], picture("red"))
    assert (len(parsed.document.passages), parsed.rejected) == (2, ())
    assert len(gallery.server.asked) == 1


def test_a_picture_that_storage_does_not_give_leaves_its_document_for_the_next_run(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(monkeypatch, "0.png")
    parsed = gallery.captioned(picture("red"), picture("blue"))
    assert [(bad.source, bad.stage) for bad in parsed.rejected] == [
        (f"{gallery.folder}/0.png", "unavailable")
    ]
    assert len(gallery.server.asked) == 1


def test_a_busy_server_is_waited_for(gallery: Gallery) -> None:
    gallery.server.replies = [(503, {}, b""), (429, {}, b""), (200, {}, completion("A red square."))]
    assert said(gallery.captioned(picture("red"), patience_s=30)) == ["A red square."]


def test_a_server_that_stays_away_or_takes_no_such_key_ends_the_job(gallery: Gallery) -> None:
    many = [picture(colour) for colour in ("red", "blue", "green")]
    with pytest.raises(ModelUnavailable, match=r"the captioner at http://127\.0\.0\.1:9/v1 does not answer"):
        gallery.captioned(*many, url="http://127.0.0.1:9/v1", at_once=2)
    gallery.server.replies = [(401, {}, b"who?")]
    with pytest.raises(UsageError, match="set its key as MMRAG_INGEST__CAPTIONS__API_KEY"):
        gallery.captioned(*many)
    gallery.server.replies = [(404, {}, b"no such model")]
    with pytest.raises(UsageError, match="answers 404"):
        gallery.captioned(*many)


def test_what_cannot_caption_is_told_before_the_work(gallery: Gallery) -> None:
    captions.require(None)
    captions.require(gallery.config())
    with pytest.raises(ModelUnavailable):
        captions.require(gallery.config(url="http://127.0.0.1:9/v1"))
    gallery.server.owner = "mmrag"
    with pytest.raises(UsageError, match="is mmrag serve, which answers from its index"):
        captions.require(gallery.config())


# In the job.


def test_a_caption_and_the_text_in_its_picture_are_one_chunk_of_it(gallery: Gallery) -> None:
    (gallery.folder / "plate.png").write_bytes(picture("red"))

    def read(parsed: Parsed) -> Parsed:
        [address] = parsed.document.images
        lines = Passage("380 V", (0,), address)
        document = Document("corpus/plate.png", address, (*parsed.document.passages, lines), (address,))
        return Parsed(document)

    rows = gallery.parse(read)
    assert row_part(rows["corpus/plate.png#txt-0"]) == Part(
        "corpus/plate.png#txt-0",
        "chunk",
        "corpus/plate.png",
        str(gallery.folder / "plate.png"),
        "A red square.\n380 V",
        image_ids=("corpus/plate.png#img-0",),
    )


def test_each_picture_of_a_document_keeps_its_caption_beside_its_text(gallery: Gallery) -> None:
    (gallery.folder / "a.png").write_bytes(picture("red"))
    (gallery.folder / "b.png").write_bytes(picture("blue"))
    (gallery.folder / "page.html").write_text("<p>Own words.</p><img src=a.png><img src=b.png>")

    def read(parsed: Parsed) -> Parsed:
        lines = [Passage(f"line {n}", (n,), address) for n, address in enumerate(parsed.document.images)]
        document = parsed.document
        passages = (*document.passages, *lines)
        return Parsed(Document(document.id, document.source, passages, document.images, document.captions))

    rows = gallery.parse(read, pictures="all")
    chunks = [row for row in rows.values() if row["kind"] == "chunk" and row["document_id"].endswith("html")]
    assert [row["text"] for row in chunks][-2:] == ["A red square.\nline 0", "A red square.\nline 1"]


def test_a_failure_is_one_refused_row_and_the_picture_is_kept(gallery: Gallery) -> None:
    gallery.server.replies = [REFUSAL]
    (gallery.folder / "plate.png").write_bytes(picture("red"))
    rows = gallery.parse()
    assert rows["corpus/plate.png#refused-0"]["stage"] == "caption"
    assert rows["corpus/plate.png#img-0"]["reason"] is None
    assert rows["corpus/plate.png"]["num_parts"] == 2


def test_pictures_of_many_documents_are_asked_about_at_once(gallery: Gallery) -> None:
    for n in range(4):
        (gallery.folder / f"{n}.png").write_bytes(picture(f"#{n}{n}0000"))
    gallery.server.late_s = 0.3
    gallery.parse(at_once=4)
    assert gallery.server.most_at_once > 1


def test_what_was_done_is_counted_for_the_bar(gallery: Gallery) -> None:
    for n in range(3):
        (gallery.folder / f"{n}.png").write_bytes(picture("red"))
    gallery.parse(at_once=2)
    gallery.tally("ocr")
    counts = gallery.tally.counts()
    assert counts == {"document": 3, "caption": 3, "ocr": 1}
    assert pictures_told(counts) == "pictures asked about: 3, pictures read: 1"
    assert pictures_told(Counter(document=3)) == ""


def test_the_stage_travels_to_workers_and_does_not_print_its_key(gallery: Gallery) -> None:
    stage = gallery.stage(api_key=SecretStr("sk-secret"))
    shipped = pickle.loads(pickle.dumps(ParseItems(SourceConfig(), ChunkConfig(), None, stage)))
    assert isinstance(shipped, ParseItems)
    assert "sk-secret" not in repr(gallery.config(api_key=SecretStr("sk-secret")))
