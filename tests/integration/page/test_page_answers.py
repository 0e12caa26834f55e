"""The page shows an answer as it streams, with its evidence and boxes; a follow-up, a stop, a refusal."""

from __future__ import annotations

import pytest
from page_browser import (
    ANSWER,
    BOX,
    FOUND,
    IN_A_BROWSER,
    OTHERS,
    SOCKETS,
    SPACING,
    Watched,
    drawing,
    encoded,
    give,
    marked_on_screen,
)
from page_server import Said
from playwright import sync_api

pytestmark = IN_A_BROWSER


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


def test_after_a_picture_alone_a_follow_up_carries_its_answer_and_no_words_of_ours(watched: Watched) -> None:
    give(watched.page, "paste", encoded(drawing()))
    watched.page.get_by_role("button", name="Remove the picture").wait_for()
    watched.ask("")
    watched.answered()
    watched.ask(SPACING)
    watched.answered(2)
    asked, said = watched.server.asked[1].history
    assert (asked.role, asked.text) == ("user", "")
    assert said.role == "assistant"
    assert said.text


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


def test_an_answer_that_is_longer_than_allowed_says_so(watched: Watched) -> None:
    watched.server.answers["And then?"] = [Said(["First the screws, then the"], OTHERS, cut=True)]
    watched.ask("And then?")
    assert watched.answered().get_by_text("ends here.").is_visible()
