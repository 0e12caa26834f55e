"""A server of chat completions that says what it is told."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any


class Scripted(ThreadingHTTPServer):
    """Answers with what it was told, one after another, the last again and again; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies: list[tuple[int, dict[str, str], bytes]] = []
        self.replies_to: Callable[[str], str] | None = None
        """By the system's words, in place of `replies`."""
        self.asked: list[tuple[str, str | None, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        """Of what it was asked."""
        self.late_s = 0.0
        """Before an answer."""
        self.drip_s = 0.0
        """Before each of its bytes, until the asker goes."""
        self.most_at_once = self._open = 0
        self._counting = threading.Lock()
        self.owner = "vllm"
        """Of the one model that it lists."""

    def says(self, *contents: str | None) -> None:
        self.replies = [(200, {}, completion(content)) for content in contents]

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Scripted]:
        with cls() as found:
            thread = threading.Thread(target=found.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield found
            finally:
                found.shutdown()
                thread.join()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Counts a request that is being answered."""
        with self._counting:
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        yield
        with self._counting:
            self._open -= 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def texts(self, request: int = 0) -> str:
        parts = self.asked[request][2]["messages"][-1]["content"]
        return "\n".join(part["text"] for part in parts if part["type"] == "text")

    def pictures(self, request: int = 0) -> list[bytes]:
        parts = self.asked[request][2]["messages"][-1]["content"]
        uris = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        assert all(uri.startswith("data:image/jpeg;base64,") for uri in uris)
        return [base64.b64decode(uri.partition(",")[2]) for uri in uris]


def completion(content: str | None) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self._send(200, {}, json.dumps({"data": [{"id": "m", "owned_by": self.server.owner}]}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(dict(self.headers))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        with self.server.open():
            sleep(self.server.late_s)
        replies = self.server.replies
        if self.server.replies_to:
            replies = [(200, {}, completion(self.server.replies_to(body["messages"][0]["content"])))]
        status, headers, content = replies.pop(0) if len(replies) > 1 else replies[0]
        self._send(status, headers, content)

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):
            for byte in content if self.server.drip_s else ():
                self.wfile.write(bytes([byte]))
                sleep(self.server.drip_s)
            self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass
