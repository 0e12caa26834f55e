"""Pictures that are given to the page: pasted, dropped or chosen, and marked as they lie."""

from __future__ import annotations

import io
import random

import pytest
from page_browser import IN_A_BROWSER, MARK, SOCKETS, Watched, drawing, encoded, give, marked_on_screen
from PIL import Image
from playwright import sync_api

pytestmark = IN_A_BROWSER


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


def test_a_drawing_of_few_bytes_and_many_pixels_is_made_smaller_and_marked_where_it_shows(
    watched: Watched,
) -> None:
    shrink = 1536 / 7200
    left, top, right, bottom = (round(edge / shrink) for edge in MARK)
    content = encoded(drawing((7200, 5400), (left, top, right, bottom)))
    assert len(content) < 2**20
    give(watched.page, "drop", content)
    watched.page.get_by_role("button", name="Remove the picture").wait_for()
    watched.ask(SOCKETS)
    turn = watched.answered()
    sent = Image.open(io.BytesIO(watched.server.asked[0].query.image or b""))
    assert (sent.format, sent.size) == ("JPEG", (1536, 1152))
    drawn, shown = marked_on_screen(watched.page, turn.locator("figure .frame"))
    assert drawn == pytest.approx(shown, abs=2)


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
