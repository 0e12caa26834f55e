"""Asking a server: what it refuses and what it cannot do are told apart."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipelines.core.errors import GeneratorUnavailable, MmragError, UsageError
from pipelines.serve import client


class Fixed(BaseHTTPRequestHandler):
    """Answers what the server was told to, and keeps what it was asked."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        status, content = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Fixed) as found:
        found.asked, found.answer = [], (200, b'{"answer": "yes"}')
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def asked(server: HTTPServer, **more: object) -> dict:
    return client.ask(f"http://127.0.0.1:{server.server_port}", {"query": "what?"}, **more)


def test_the_question_its_picture_and_key_arrive(server) -> None:
    assert asked(server, image=b"png", api_key="a-key") == {"answer": "yes"}
    image = "data:image/png;base64,cG5n"
    assert server.asked == [("/v1/answer", "Bearer a-key", {"query": "what?", "image": image})]


@pytest.mark.parametrize(
    ("status", "error"), [(400, UsageError), (401, UsageError), (503, GeneratorUnavailable)]
)
def test_a_refusal_is_an_error_with_the_servers_words(server, status, error) -> None:
    server.answer = status, b'{"error": {"message": "because", "type": "t"}}'
    with pytest.raises(error, match="because"):
        asked(server)


def test_what_is_no_answer_is_told(server) -> None:
    server.answer = 502, b"<html>"
    with pytest.raises(GeneratorUnavailable, match="is the server still up"):
        asked(server)


def test_a_server_that_does_not_start_is_an_error(tmp_path) -> None:
    """There is no index; another's announcement, which was left behind, is not taken for this one's."""
    (tmp_path / client.SERVED).write_text('{"address": "http://127.0.0.1:1", "pid": 1}')
    with pytest.raises(MmragError, match="did not start"), client.served(tmp_path):
        pass
