"""What the tests of the page ask, draw, and watch in a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from page_server import Said, Script, hit
from PIL import Image, ImageChops, ImageDraw
from playwright import sync_api

from pipelines.core.previews import Preview
from pipelines.core.types import PlacedBox

sync_api.expect.set_options(timeout=30_000)
CHROMIUM = shutil.which("chromium")
IN_A_BROWSER = [
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
