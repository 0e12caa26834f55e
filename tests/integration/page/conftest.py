"""The page on the real gateway, in headless Chromium."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import ANSWER, CHROMIUM, OWN, SHEET_CONTENT, SOCKETS, SPACING, Watched, preview
from page_server import Script, running
from playwright import sync_api

from pipelines.serve.config import ServeConfig


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
