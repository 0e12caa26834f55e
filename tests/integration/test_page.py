"""The web page in a real browser, on the real gateway: what a person sees, types, pastes and is told."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import pytest
from page_server import Said, Script, hit, running
from PIL import Image, ImageChops, ImageDraw

from pipelines.core.errors import GeneratorUnavailable
from pipelines.core.previews import Preview
from pipelines.core.types import PlacedBox
from pipelines.serve.config import ServeConfig
from pipelines.serve.gateway import PAGE

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is tested with Playwright")
sync_api.expect.set_options(timeout=30_000)
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="the page is tested in Debian's chromium: not installed"),
]

SPACING = "What is the hole spacing?"
SOCKETS = "Which sockets does it fit?"
SIZE = (800, 600)
MARK = (520, 130, 640, 190)
SHEET_CONTENT = "a1" * 32
NOT_LOADED = "Failed to load resource"


def drawing(size: tuple[int, int] = SIZE, mark: tuple[int, int, int, int] = MARK) -> Image.Image:
    """A white sheet with one magenta rectangle: the place that the answers mark."""
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 20, size[0] - 21, size[1] - 21), outline="#14202e", width=3)
    left, top, right, bottom = mark
    pen.rectangle((left, top, right - 1, bottom - 1), fill="magenta")
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def preview() -> Preview:
    """Half the size of its original, as a large picture's is."""
    small = drawing().resize((400, 300))
    return Preview(encoded(small, "JPEG", quality=95, subsampling=0), *SIZE)


SHEET = hit(1, "spec-ac-120", "A drawing of the cooler, with its holes.", SHEET_CONTENT)
NOTE = hit(2, "note-7", "The cooler is quiet. " * 20)
OTHERS = [hit(n, f"other-{n}", f"Something else, number {n}.") for n in (3, 4, 5)]
FOUND = [SHEET, NOTE, *OTHERS]
BOX = PlacedBox(1, MARK, "78 mm")
OWN_BOX = PlacedBox("query", MARK, "the sockets")

ANSWER = Said(["The hole ", "spacing is 78 mm [", "1]. It is quiet [2]."], FOUND, [BOX])
OWN = Said(["It fits three sockets."], FOUND, [OWN_BOX])


@dataclass
class Watched:
    """A page, its server, and what the page must not do unseen."""

    page: Any
    server: Script
    problems: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def ask(self, text: str) -> None:
        self.page.get_by_label("Question", exact=True).fill(text)
        self.page.keyboard.press("Enter")

    def answered(self, nth: int = 1, state: str = "done") -> Any:
        self.page.wait_for_selector(f'.turn:nth-child({nth})[data-state="{state}"]')
        return self.page.locator(".turn").nth(nth - 1)

    def eventually(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, f"not so: {what}"
            self.page.wait_for_timeout(50)

    def reply_once(self, deltas: list[Any], *, whole: bool = True) -> None:
        """The next answer as these deltas, whatever the gateway would have made of them."""
        last = len(deltas) - 1
        chunks = [
            {
                "choices": [
                    {"index": 0, "delta": delta, "finish_reason": "stop" if whole and n == last else None}
                ]
            }
            for n, delta in enumerate(deltas)
        ]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + whole * "data: [DONE]\n\n"
        self.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
            times=1,
        )

    def forgive_the_status(self) -> None:
        """A browser notes each answer that is an error; nothing else may stand there."""
        assert self.problems
        assert all(line.startswith(NOT_LOADED) for line in self.problems)
        self.problems.clear()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=as_root)
        yield started
        started.close()


@pytest.fixture
def config(request: pytest.FixtureRequest) -> ServeConfig:
    """Of the server; a test changes it by indirect parameters."""
    return ServeConfig.model_validate(getattr(request, "param", {}))


@pytest.fixture
def server(config: ServeConfig) -> Iterator[Script]:
    script = Script({SPACING: [ANSWER], SOCKETS: [OWN], "": [OWN]}, {SHEET_CONTENT: preview()})
    with running(script, config) as started:
        yield started


@pytest.fixture
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of the browser's context; a test changes them by indirect parameters."""
    return {"locale": "en-GB", "viewport": {"width": 1280, "height": 1500}} | getattr(request, "param", {})


@pytest.fixture
def watched(browser: Any, server: Script, options: dict[str, Any]) -> Iterator[Watched]:
    """No console error, no exception, and no request to another host, whatever the test did."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    seen = Watched(page, server)
    page.on("console", lambda line: line.type == "error" and seen.problems.append(line.text))
    page.on("pageerror", lambda error: seen.problems.append(str(error)))
    page.on("request", lambda sent: seen.asked.append(sent.url))
    page.goto(server.url)
    page.wait_for_selector(".example")
    yield seen
    context.close()
    assert seen.problems == []
    assert [url for url in seen.asked if not url.startswith((f"{server.url}/", "blob:", "data:"))] == []


def marked_on_screen(page: Any, frame: Any) -> tuple[list[float], list[int]]:
    """The edges of the drawn box, and of the magenta that the screen shows beneath it."""
    frame.scroll_into_view_if_needed()
    drawn = frame.locator("rect.edge").evaluate(
        """rect => {
            const to = rect.getScreenCTM(), {x, y, width, height} = rect.getBBox();
            const a = new DOMPoint(x, y).matrixTransform(to);
            const b = new DOMPoint(x + width, y + height).matrixTransform(to);
            return [a.x, a.y, b.x, b.y];
        }"""
    )
    frame.evaluate("frame => frame.querySelectorAll('svg, .flag').forEach(it => it.style.display = 'none')")
    around = frame.bounding_box()
    left, top = int(around["x"]), max(0, int(around["y"]))
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    screen = screen.crop((left, top, left + int(around["width"]), top + int(around["height"])))
    red, green, blue = screen.split()
    strong = [band.point(lambda value: 255 * (value > 200)) for band in (red, blue)]
    weak = green.point(lambda value: 255 * (value < 128))
    place = ImageChops.darker(ImageChops.darker(*strong), weak).getbbox()
    assert place is not None
    return list(drawn), [place[0] + left, place[1] + top, place[2] + left, place[3] + top]


def give(page: Any, event: str, content: bytes, name: str = "picture.png", kind: str = "image/png") -> None:
    """A file that is pasted or dropped on the page."""
    page.evaluate(
        """([event, data, name, kind]) => {
            const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, {type: kind}));
            const made = event === "paste"
                ? new ClipboardEvent(event, {clipboardData: carried, bubbles: true, cancelable: true})
                : new DragEvent(event, {dataTransfer: carried, bubbles: true, cancelable: true});
            document.body.dispatchEvent(made);
        }""",
        [event, base64.b64encode(content).decode(), name, kind],
    )


def test_an_answer_streams_and_shows_its_evidence(watched: Watched) -> None:
    page = watched.page
    watched.server.answers[SPACING] = [Said(ANSWER.pieces, FOUND, [BOX], pause_s=0.5)]
    watched.ask(SPACING)
    said = page.locator(".said")
    sync_api.expect(said).to_have_text("The hole ")
    assert page.locator(".turn").get_attribute("data-state") == "busy"
    assert said.get_attribute("aria-live") == "polite"
    turn = watched.answered()
    assert said.inner_text() == "The hole spacing is 78 mm 1. It is quiet 2."
    assert turn.locator("h2").inner_text() == SPACING
    assert turn.locator(".evidence > ol > li").count() == 3
    assert turn.locator("details > summary").inner_text() == "2 more found"
    assert "words to picture" in turn.locator(".facts").first.inner_text()
    assert "Score 0.032" in turn.locator(".facts").first.inner_text()
    assert watched.server.asked[0].query.text == SPACING
    assert watched.server.asked[0].query.mode == "auto"


def test_a_citation_leads_to_its_evidence(watched: Watched) -> None:
    watched.ask(SPACING)
    turn = watched.answered()
    turn.get_by_role("link", name="Evidence 2").click()
    assert watched.page.evaluate("document.activeElement.dataset.n") == "2"
    long = turn.locator("li[data-n='2']")
    cut = long.locator(".passage").bounding_box()["height"]
    long.get_by_role("button", name="Show all").click()
    assert long.locator(".passage").bounding_box()["height"] > cut


def test_a_box_lies_where_the_picture_shows_it(watched: Watched) -> None:
    watched.ask(SPACING)
    turn = watched.answered()
    frame = turn.locator("figure .frame")
    frame.locator("rect.edge").wait_for()
    assert turn.locator("figure .flag").inner_text() == "78 mm"
    drawn, shown = marked_on_screen(watched.page, frame)
    assert drawn == pytest.approx(shown, abs=2)


def test_a_long_name_of_a_box_ends_at_the_pictures_edge(watched: Watched) -> None:
    watched.ask(SPACING)
    flag = watched.answered().locator("figure .flag")
    flag.wait_for()
    # It stands at the box's right edge and grows to the left.
    assert flag.evaluate("it => [it.style.right, it.style.maxWidth].map(parseFloat)") == pytest.approx(
        [20, 80]
    )


@pytest.mark.parametrize("way", ["paste", "drop", "button"])
def test_a_picture_is_sent_as_it_is_and_marked_in_its_own_pixels(watched: Watched, way: str) -> None:
    page, content = watched.page, encoded(drawing())
    if way == "button":
        page.set_input_files("#file", {"name": "sheet.png", "mimeType": "image/png", "buffer": content})
    else:
        give(page, way, content)
    page.get_by_role("button", name="Remove the picture").wait_for()
    watched.ask(SOCKETS)
    turn = watched.answered()
    assert watched.server.asked[0].query.image == content
    drawn, shown = marked_on_screen(page, turn.locator("figure .frame"))
    assert drawn == pytest.approx(shown, abs=2)
    assert page.locator("#attached").is_hidden()


def test_a_photograph_that_lies_on_its_side_is_marked_upright(watched: Watched) -> None:
    turned = drawing().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    give(watched.page, "paste", encoded(turned, "JPEG", exif=exif, quality=95), "p.jpg", "image/jpeg")
    watched.page.get_by_role("button", name="Remove the picture").wait_for()
    watched.ask(SOCKETS)
    turn = watched.answered()
    drawn, shown = marked_on_screen(watched.page, turn.locator("figure .frame"))
    assert drawn == pytest.approx(shown, abs=2)


def test_a_large_picture_is_made_smaller_before_it_is_sent(watched: Watched) -> None:
    noise = random.Random(0).randbytes(2000 * 900 * 3)
    content = encoded(Image.frombytes("RGB", (2000, 900), noise), compress_level=0)
    give(watched.page, "drop", content)
    watched.page.get_by_role("button", name="Remove the picture").wait_for()
    assert watched.page.locator("#size").inner_text() == "1536 × 691"
    watched.ask("")
    watched.answered()
    sent = Image.open(io.BytesIO(watched.server.asked[0].query.image or b""))
    assert (sent.format, sent.size) == ("JPEG", (1536, 691))


def test_a_picture_can_be_removed_and_no_picture_is_refused(watched: Watched) -> None:
    page = watched.page
    give(page, "paste", encoded(drawing()))
    page.get_by_role("button", name="Remove the picture").click()
    assert page.locator("#attached").is_hidden()
    give(page, "drop", b"%PDF-1.7", "paper.pdf", "application/pdf")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("not a picture")
    page.get_by_label("Search with").select_option("visually_similar")
    watched.ask("more like this")
    sync_api.expect(page.get_by_role("alert")).to_contain_text("needs a picture")
    assert watched.server.asked == []


def test_the_picture_opens_large_and_escape_closes_it(watched: Watched) -> None:
    page = watched.page
    watched.ask(SPACING)
    turn = watched.answered()
    thumbnail = turn.locator(".hit .shot")
    thumbnail.click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator(".flag").inner_text() == "78 mm"
    drawn, shown = marked_on_screen(page, dialog.locator(".frame"))
    assert drawn == pytest.approx(shown, abs=2)
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert thumbnail.evaluate("it => it === document.activeElement")


def test_everything_can_be_done_with_the_keyboard(watched: Watched) -> None:
    page = watched.page
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("What is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("the hole spacing?")
    watched.server.answers["What is\nthe hole spacing?"] = [ANSWER]
    page.keyboard.press("Enter")
    watched.answered()

    def back_to(what: str) -> None:
        for _ in range(30):
            page.keyboard.press("Shift+Tab")
            if page.evaluate("what => document.activeElement.matches(what)", what):
                return
        raise AssertionError(f"{what} is not reached")

    back_to(".cite[data-n='1']")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.n") == "1"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for(state="visible")
    page.keyboard.press("Escape")
    for before in ("icon down", "icon up", "shot"):  # the thumbs, and the figure in the answer
        page.keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.className").startswith(before)
    back_to("#anew")
    page.keyboard.press("Space")
    assert page.locator(".turn").count() == 0
    assert page.evaluate("document.activeElement.id") == "question"


def test_enter_that_ends_a_composition_asks_nothing(watched: Watched) -> None:
    box = watched.page.get_by_label("Question", exact=True)
    box.fill("ni hao")
    enter = "new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true})"
    box.evaluate(f"it => it.dispatchEvent({enter})")
    assert watched.page.locator(".turn").count() == 0


@pytest.mark.parametrize("options", [{"locale": "zh-CN"}], indirect=True)
def test_a_chinese_browser_gets_chinese(watched: Watched) -> None:
    page = watched.page
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.locator("#welcome h2").inner_text() == "用文字和图片提问"
    asked = "机箱很薄，放不下塔式散热器，该用哪一款？"
    watched.server.answers[asked] = [Said(["孔距是 78 毫米 [1]。"], FOUND, degraded=["lexical: timed out"])]
    page.get_by_role("button", name=asked).click()
    turn = watched.answered()
    assert turn.locator(".said").inner_text() == "孔距是 78 毫米 1。"
    assert turn.locator("h3").inner_text().split() == ["依据", "共", "5", "条"]
    assert "lexical: timed out" in turn.locator(".degraded").inner_text()
    page.get_by_role("button", name="Switch to English").click()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert turn.locator("h3").inner_text().split() == ["Evidence", "5", "found"]
    page.reload()
    assert page.locator("#welcome h2").inner_text() == "Ask words and pictures"


CONTRAST = """scheme => {
    const style = getComputedStyle(document.documentElement);
    const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
    const light = name => {
        const hex = style.getPropertyValue(name).trim().slice(1);
        const [r, g, b] = [0, 2, 4].map(at => channel(parseInt(hex.slice(at, at + 2), 16)));
        return .2126 * r + .7152 * g + .0722 * b;
    };
    return (a, b) => (Math.max(light(a), light(b)) + .05) / (Math.min(light(a), light(b)) + .05);
}"""
READ = [
    ("--ink", "--page"), ("--ink", "--card"), ("--ink", "--line"), ("--soft", "--page"), ("--soft", "--card"),
    ("--accent", "--page"), ("--accent", "--card"), ("--accent", "--accent-soft"),
    ("--on-accent", "--accent"), ("--warn", "--warn-soft"), ("--bad", "--bad-soft"), ("--bad", "--page"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "dark"),
    [({"color_scheme": "light"}, False), ({"color_scheme": "dark"}, True)],
    indirect=["options"],
)
def test_light_and_dark_are_both_readable(watched: Watched, dark: bool) -> None:
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 64) is dark
    ratio = f"([a, b]) => ({CONTRAST})()(a, b)"
    assert {pair: watched.page.evaluate(ratio, list(pair)) >= 4.5 for pair in READ} == dict.fromkeys(
        READ, True
    )
    assert watched.page.evaluate(ratio, ["--edge", "--card"]) >= 3


@pytest.mark.parametrize(
    "options",
    [{"viewport": {"width": 360, "height": 640}}, {"viewport": {"width": 640, "height": 400}}],
    indirect=True,
    ids=["a narrow telephone", "200 % of 1280 x 800"],
)
def test_nothing_is_cut_off_on_a_small_screen(watched: Watched) -> None:
    page = watched.page
    page.locator("#more").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    give(page, "paste", encoded(drawing()))
    page.get_by_role("button", name="Remove the picture").wait_for()
    watched.ask(SOCKETS)
    turn = watched.answered()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    drawn, shown = marked_on_screen(page, turn.locator("figure .frame"))
    assert drawn[0] == pytest.approx(shown[0], abs=2)
    assert drawn[2] == pytest.approx(shown[2], abs=2)


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


def test_a_follow_up_carries_what_was_said_and_a_new_conversation_does_not(watched: Watched) -> None:
    page = watched.page
    give(page, "paste", encoded(drawing()))
    page.get_by_role("button", name="Remove the picture").wait_for()
    watched.ask(SPACING)
    watched.answered()
    watched.ask(SOCKETS)
    watched.answered(2)
    heading = page.locator(".turn:last-child h2")
    watched.eventually(lambda: heading.bounding_box()["y"] < 110, "the new question stands at the top")
    first, second = watched.server.asked
    assert first.query.image is not None
    assert second.query.image is None
    assert [(turn.role, turn.text) for turn in second.history] == [
        ("user", SPACING),
        ("assistant", "The hole spacing is 78 mm [1]. It is quiet [2]."),
    ]
    page.get_by_role("button", name="New conversation").click()
    watched.ask(SOCKETS)
    watched.answered()
    assert watched.server.asked[2].history == ()


def test_an_answer_can_be_stopped(watched: Watched) -> None:
    watched.server.answers[SPACING] = [Said(["The hole ", "spacing"] * 40, pause_s=0.4)]
    watched.ask(SPACING)
    sync_api.expect(watched.page.locator(".said")).to_contain_text("The hole")
    watched.page.get_by_role("button", name="Stop").click()
    turn = watched.answered(state="stopped")
    assert turn.get_by_text("Stopped.").is_visible()
    assert watched.page.get_by_role("button", name="Ask", exact=True).is_visible()
    sync_api.expect(turn.locator(".said")).not_to_have_text("")
    watched.eventually(lambda: watched.server.ended == 1, "the server stops working")


def test_a_refusal_is_plain(watched: Watched) -> None:
    watched.server.answers["Who won?"] = [Said(["The evidence does not say."], OTHERS, refused=True)]
    watched.ask("Who won?")
    assert watched.answered().locator(".refused").is_visible()


def pressed(turn: Any) -> list[str]:
    return turn.locator(".thumbs button").evaluate_all("all => all.map(it => it.ariaPressed)")


def ratings(watched: Watched) -> dict[str, float]:
    found = re.findall(
        r'mmrag_ratings_total\{rating="(\w+)"\} (.*)',
        urlopen(f"{watched.server.url}/metrics").read().decode(),
    )
    return {rating: float(count) for rating, count in found}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"locale": "en-GB"}, ("Was this answer good?", "Good answer", "Bad answer")),
        ({"locale": "zh-CN"}, ("这个回答好吗？", "回答得好", "回答得不好")),
    ],
    indirect=["options"],
)
def test_an_answer_is_rated_by_the_keyboard_and_by_its_name(
    watched: Watched, names: tuple[str, str, str]
) -> None:
    page, sent = watched.page, []
    page.on("request", lambda request: "feedback" in request.url and sent.append(request.post_data_json))
    with page.expect_response("**/v1/chat/completions") as answered:
        page.locator("#question").fill(SPACING)
        page.keyboard.press("Enter")
    turn = watched.answered()
    group = turn.get_by_role("group", name=names[0])
    good, bad = (group.get_by_role("button", name=name, exact=True) for name in names[1:])
    assert pressed(turn) == ["false", "false"]
    good.focus()
    page.keyboard.press("Enter")
    sync_api.expect(good).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    sync_api.expect(bad).to_have_attribute("aria-pressed", "true")
    assert pressed(turn) == ["false", "true"]
    bad.click()  # once is enough
    request_id = answered.value.headers["x-request-id"]
    assert sent == [{"request_id": request_id, "rating": rating} for rating in ("up", "down")]
    assert ratings(watched) == {"up": 1, "down": 1}


def test_a_rating_that_does_not_arrive_is_told_and_may_be_sent_again(watched: Watched) -> None:
    watched.ask(SPACING)
    turn = watched.answered()
    watched.page.route("**/v1/feedback", lambda route: route.abort(), times=1)
    good = turn.get_by_role("button", name="Good answer")
    good.click()
    sync_api.expect(watched.page.locator("#problem")).to_have_text("The rating could not be sent.")
    assert pressed(turn) == ["false", "false"]
    good.click()
    sync_api.expect(good).to_have_attribute("aria-pressed", "true")
    assert watched.page.locator("#problem").inner_text() == ""
    watched.forgive_the_status()


def test_what_is_no_answer_is_not_rated(watched: Watched) -> None:
    watched.server.answers[SPACING] = [
        Said(["The hole "], failure=GeneratorUnavailable("the model stopped")),
        Said(["The hole ", "spacing"] * 40, pause_s=0.4),
    ]
    watched.ask(SPACING)
    turn = watched.answered(state="failed")
    assert turn.locator(".thumbs").count() == 0
    turn.get_by_role("button", name="Try again").click()
    sync_api.expect(turn.locator(".said")).to_contain_text("The hole")
    watched.page.get_by_role("button", name="Stop").click()
    watched.answered(state="stopped")
    assert turn.locator(".thumbs").count() == 0


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
