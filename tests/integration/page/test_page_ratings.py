"""Answers are rated on the page, by keyboard and by name."""

from __future__ import annotations

import re
from typing import Any
from urllib.request import urlopen

import pytest
from page_browser import IN_A_BROWSER, SPACING, Watched
from page_server import Said
from playwright import sync_api

from pipelines.core.errors import GeneratorUnavailable

pytestmark = IN_A_BROWSER


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
