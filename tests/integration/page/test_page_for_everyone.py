"""The page by keyboard, in Chinese, in light and dark, and on small screens."""

from __future__ import annotations

import pytest
from page_browser import (
    ANSWER,
    FOUND,
    IN_A_BROWSER,
    SOCKETS,
    Watched,
    drawing,
    encoded,
    give,
    marked_on_screen,
)
from page_server import Said

pytestmark = IN_A_BROWSER


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
