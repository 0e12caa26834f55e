"""What the page says and keeps when a server is busy, breaks off, refuses, or means harm."""

from __future__ import annotations

import pytest
from page_browser import ANSWER, IN_A_BROWSER, SPACING, Watched
from page_server import Said

from pipelines.core.errors import GeneratorUnavailable
from pipelines.serve.gateway import PAGE

pytestmark = IN_A_BROWSER


@pytest.mark.parametrize("config", [{"retry_after_s": 2}], indirect=True)
def test_a_busy_server_is_asked_again_after_its_pause(watched: Watched) -> None:
    watched.server.answers[SPACING] = [Said(failure=GeneratorUnavailable("the model is starting")), ANSWER]
    watched.ask(SPACING)
    turn = watched.answered(state="failed")
    assert turn.locator(".failed p").inner_text() == "the model is starting"
    assert turn.get_by_role("button", name="Try again in").is_disabled()
    turn.get_by_role("button", name="Try again", exact=True).click()
    watched.answered()
    assert turn.locator(".failed").count() == 0
    assert len(watched.server.asked) == 2
    watched.forgive_the_status()


@pytest.mark.parametrize("told", [True, False], ids=["the server says why", "the connection ends"])
def test_an_answer_that_breaks_off_says_so_and_keeps_its_words(watched: Watched, told: bool) -> None:
    if told:
        broken = Said(["The hole ", "spacing"], failure=GeneratorUnavailable("the model stopped"))
        watched.server.answers[SPACING] = [broken, ANSWER]
    else:
        watched.reply_once([{"content": "The hole "}, {"content": "spacing"}], whole=False)
    watched.ask(SPACING)
    turn = watched.answered(state="failed")
    assert turn.locator(".said").inner_text() == "The hole spacing"
    expected = "the model stopped" if told else "The answer broke off."
    assert turn.locator(".failed p").inner_text() == expected
    turn.get_by_role("button", name="Try again").click()
    watched.answered()
    assert turn.locator(".said").inner_text() == "The hole spacing is 78 mm 1. It is quiet 2."


def test_a_server_that_is_gone_is_named(watched: Watched) -> None:
    watched.page.route("**/v1/chat/completions", lambda route: route.abort(), times=1)
    watched.ask(SPACING)
    turn = watched.answered(state="failed")
    assert turn.locator(".failed p").inner_text() == "The server cannot be reached."
    turn.get_by_role("button", name="Try again").click()
    watched.answered()
    watched.forgive_the_status()


def test_a_wrong_filter_is_told_in_the_servers_sentence(watched: Watched) -> None:
    watched.page.get_by_role("button", name="More").click()
    watched.page.get_by_label("Filter").fill("colour == 3")
    watched.ask(SPACING)
    assert "colour" in watched.answered(state="failed").locator(".failed p").inner_text()
    watched.forgive_the_status()


@pytest.mark.parametrize(
    "config", [{"api_keys": [{"key": "secret-key", "tenant": None, "name": "us"}]}], indirect=True
)
def test_a_key_opens_the_answers_and_the_pictures(watched: Watched) -> None:
    page = watched.page
    watched.ask(SPACING)
    turn = watched.answered(state="failed")
    page.get_by_label("API key").fill("secret-key")
    turn.get_by_role("button", name="Try again").click()
    watched.answered()
    turn.locator("figure img").wait_for()
    page.reload()
    assert page.locator("#key").input_value() == "secret-key"
    assert page.evaluate("localStorage.getItem('mmrag.key')") is None
    watched.forgive_the_status()


def test_the_server_is_never_trusted(watched: Watched) -> None:
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    hits = [
        {"citation_id": 1, "document_id": evil, "text": evil, "source": "javascript:document.title='owned'"},
        {
            "citation_id": 2,
            "image_uri": "https://elsewhere.example/x.png",
            "source": "https://elsewhere.example",
        },
        {"citation_id": 3, "image_uri": "/v1/images/../../healthz", "sources": {"constructor": 1, evil: 2}},
        {"citation_id": 4, "text": {"x": 1}, "score": "high", "sources": "no", "metadata": None},
        {"citation_id": "5", "text": "x"},
        None,
    ]
    boxes = [
        {"image": 1, "xyxy": ["0", None, 3], "label": evil},
        {"image": "nowhere", "xyxy": [0, 0, 1, 1], "label": evil},
        None,
    ]
    beside = {
        "hits": hits,
        "citations": [None],
        "boxes": boxes,
        "degraded": [evil],
        "timings_ms": {"total": "x"},
    }
    watched.reply_once([{"content": evil}, {"content": " [1] [2][99] ["}, {"content": "unclosed"}, beside])
    watched.ask(SPACING)
    turn = watched.answered()
    assert turn.locator(".said").inner_text() == f"{evil} 1 2[99] [unclosed"
    assert watched.page.locator("main script, main [onerror]").count() == 0
    assert turn.locator("a[href^='javascript']").count() == 0
    assert turn.locator("a[target]").evaluate_all("all => all.map(it => it.rel)") == ["noopener noreferrer"]
    assert turn.get_by_text("The picture cannot be shown.").count() == 2
    assert turn.locator(".hit").count() == 4
    assert watched.page.title() == "mmrag"


def test_events_may_be_cut_anywhere(watched: Watched) -> None:
    """Every cut of a stream with all three line ends, a comment, and characters of several bytes."""
    read = """async ([text, lengths]) => {
        const {events} = await import("./client.js");
        const bytes = new TextEncoder().encode(text);
        const all = [];
        for (const length of lengths) {
            const stream = new ReadableStream({start(to) {
                for (let at = 0; at < bytes.length; at += length) to.enqueue(bytes.slice(at, at + length));
                to.close();
            }});
            const heard = [];
            for await (const data of events(stream)) heard.push(data);
            all.push(heard.join("|"));
        }
        return [...new Set(all)];
    }"""
    text = ": hello\n\ndata: 孔距\r\n\r\ndata: a\ndata: b\n\ndata:c\r\rdata: 🙂\n\n"
    assert watched.page.evaluate(read, [text, list(range(1, 60))]) == ["孔距|a\nb|c|🙂"]


def test_the_page_needs_no_inline_code() -> None:
    html = (PAGE / "index.html").read_text("utf-8")
    assert " style=" not in html
    assert "<style" not in html
    assert "<script>" not in html
    for script in PAGE.glob("*.js"):
        assert "innerHTML" not in script.read_text("utf-8")
