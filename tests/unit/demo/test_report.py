"""The report counts honestly, escapes what it shows, and asks nothing of the network."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pipelines.demo import (
    AnswerRun,
    Asked,
    IngestSummary,
    QueryRun,
    Question,
    answer_table,
    table,
    totals,
    write_report,
)

HOSTILE = "<script>alert('x')</script> & \"quotes\" <img src=http://example.com/a.png>"


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (900, 30), "red").save(out, "PNG")
    return out.getvalue()


def hit(document: str, text: str = "words") -> dict[str, object]:
    return {
        "id": f"{document}#img-0",
        "document_id": document,
        "kind": "image",
        "score": 0.0164,
        "text": text,
        "source": f"/somewhere/{document}.png",
        "image_uri": None,
        "metadata": {},
        "citation_id": 1,
        "sources": {"visual": 1},
    }


def run(*documents: str, expected: str = "a", ms: float = 10.0, degraded: tuple[str, ...] = ()) -> QueryRun:
    result = {"hits": [hit(document) for document in documents], "degraded": list(degraded)}
    return QueryRun(Question("q", "shows", (expected,), text="what?"), result, ms)


def answered(asked: Asked, text: str, *pictures: bytes) -> AnswerRun:
    answer = {
        "answer": text,
        "citations": [{"n": 1, "hit_id": "<a>#img-0"}],
        "boxes": [],
        "hits": [],
        "degraded": [HOSTILE],
        "refused": False,
    }
    return AnswerRun(asked, answer, 12.0, pictures)


def test_rank_is_that_of_the_first_expected_document() -> None:
    assert run("b", "a", "a").rank == 2
    assert run("b").rank is None
    assert run().rank is None


def test_the_sixth_hit_does_not_count() -> None:
    assert run("b", "c", "d", "e", "a").rank == 5
    assert run("b", "c", "d", "e", "f", "a").rank is None


def test_totals_count_misses() -> None:
    total = totals([run("a", ms=10), run("b", "a", ms=30), run("b", ms=20, degraded=("lexical",))])
    assert (total.questions, total.found, total.first) == (3, 2, 1)
    assert (total.median_ms, total.degraded) == (20, 1)


@pytest.fixture
def page(tmp_path: Path) -> str:
    (tmp_path / "query.png").write_bytes(png())
    question = Question("q", HOSTILE, ("a",), text=HOSTILE, image="query.png", filter='lang == "<b>"')
    result = {"hits": [hit("a", HOSTILE), hit("<b>", HOSTILE)], "degraded": [HOSTILE]}
    out = tmp_path / "report.html"
    write_report(
        out,
        tmp_path,
        [QueryRun(question, result, 12.3), run("b")],
        [
            answered(Asked("q", HOSTILE, HOSTILE, "what", "a", image="query.png"), HOSTILE),
            answered(Asked("r", "shows", "what?", "it", "<a>"), "it is it [1]", png()),
        ],
        load_image=lambda found: png() if found["document_id"] == "a" else None,
        ingest=IngestSummary(documents=2, images=1, chunks=3, rejected=4, seconds=0.5),
        models=HOSTILE,
    )
    return out.read_text("utf-8")


def test_text_is_escaped(page: str) -> None:
    assert "<script" not in page
    assert "<img src=http" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quotes&quot;" in page


def test_nothing_outside_the_file_is_referred_to(page: str) -> None:
    tags = " ".join(re.findall(r"<[a-z][^>]*>", page))
    addresses = re.findall(r"(?:src|href)\s*=\s*['\"]?([^'\"\s>]+)", tags)
    assert addresses
    assert all(re.match(r"data:image/jpeg;base64,|#q\d+$", address) for address in addresses)
    assert re.findall(r"url\((?!data:)|@import|<link|<script", page) == []
    assert "default-src 'none'" in page


def test_misses_and_figures_are_shown(page: str) -> None:
    assert "1 / 2" in page
    assert "<b>1 / 2</b><small>answered rightly" in page
    assert page.count("<span class=no>✗</span>") == 3  # an answer; a search in the summary and above its hits
    assert "<b>2.0</b><small>images/s" in page


def test_pictures_are_small(page: str) -> None:
    assert len(page) < 250_000


def test_the_table_prints_brackets_as_they_are() -> None:
    question = Question("q", "shows", ("a",), text="[bold]plain[/bold]", image="queries/pie.png")
    console = Console(width=160, file=io.StringIO())
    console.print(table([QueryRun(question, {"hits": [], "degraded": []}, 1.0)]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[pie] [bold]plain[/bold]" in text
    assert "0 of 1 found" in text


def test_the_table_of_answers_tells_them_and_counts() -> None:
    console = Console(width=160, file=io.StringIO())
    console.print(
        answer_table([answered(Asked("r", "shows", "what?", "it", "<a>"), "it is [bold]it[/bold]")])
    )
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "it is [bold]it[/bold]" in text
    assert "1 of 1 right, 0 of 0 values marked" in text
