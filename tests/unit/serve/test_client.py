"""Asking a server: what it refuses and what it cannot do are told apart."""

from __future__ import annotations

import base64
import io
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest
from PIL import Image
from shell import mmrag

from pipelines import cli_serve
from pipelines.core.errors import GeneratorUnavailable, MmragError, UsageError
from pipelines.core.processes import Process
from pipelines.knowledge_base import local_answerer
from pipelines.serve import client
from pipelines.settings import Settings, load_settings


class Fixed(BaseHTTPRequestHandler):
    """Answers what the server was told to, and keeps what it was asked."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        status, content = self.server.answer
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        assert self.path == "/healthz"
        self.send_response(200)
        self.end_headers()

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
    ("status", "error"),
    [
        *((code, UsageError) for code in (400, 401)),
        *((code, GeneratorUnavailable) for code in (408, 429, 503)),
    ],
)
def test_a_refusal_is_an_error_with_the_servers_words(server, status, error) -> None:
    server.answer = status, b'{"error": {"message": "because", "type": "t"}}'
    with pytest.raises(error, match="because"):
        asked(server)


@pytest.mark.parametrize(
    ("status", "body"), [(502, b"<html>"), (404, b'{"detail": "Not Found"}'), (200, b"[1]"), (500, b"1")]
)
def test_what_is_no_answer_is_told(server, status, body) -> None:
    server.answer = status, body
    with pytest.raises(GeneratorUnavailable, match="is the server still up"):
        asked(server)


def test_a_server_that_lives_is_found_by_its_index(tmp_path) -> None:
    assert client.announced(tmp_path) is None
    client.announce(tmp_path, "http://127.0.0.1:8000")
    found = client.announced(tmp_path)
    assert (found.address, found.process.pid) == ("http://127.0.0.1:8000", os.getpid())


@pytest.mark.parametrize(
    "other", [{"pid": 2**22 + 1}, {"pid": -1}, {"started": 1.0}, {"started": None}, {"pid": "x"}]
)
def test_a_server_that_was_killed_is_none_though_another_answers_at_its_address(tmp_path, other) -> None:
    """Its pid is nobody's any more, or a later process's."""
    client.announce(tmp_path, "http://127.0.0.1:8000")
    file = tmp_path / client.SERVED
    file.write_text(json.dumps(json.loads(file.read_bytes()) | other))
    assert client.announced(tmp_path) is None


def test_a_question_goes_to_no_server_of_another_index(tmp_path, server) -> None:
    """It is alive at the address that a killed server of this index told."""
    address = f"http://127.0.0.1:{server.server_port}"
    client.announce(tmp_path, address)
    assert cli_serve._served(tmp_path, Settings(), chosen=False) == address
    file = tmp_path / client.SERVED
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"started": 1.0}))
    assert cli_serve._served(tmp_path, Settings(), chosen=False) is None


def test_where_settings_are_chosen_only_a_server_with_the_same_is_asked(tmp_path, server, capsys) -> None:
    address, mine = f"http://127.0.0.1:{server.server_port}", load_settings(None, ["answer.evidence=1"])
    client.announce(tmp_path, address, load_settings(None, ["serve.port=1"]).answers_by())
    assert cli_serve._served(tmp_path, Settings(), chosen=True) == address
    assert capsys.readouterr().err == ""
    assert cli_serve._served(tmp_path, mine, chosen=True) is None
    assert cli_serve._served(tmp_path, mine, chosen=False) == address  # of the environment, or by default
    assert "answers, by settings of its own" in capsys.readouterr().err


THIS, OTHER = "http://127.0.0.1:8124", "http://127.0.0.1:8123"


@pytest.fixture
def parent() -> Process:
    """In another server's place: it lives."""
    return Process(os.getppid(), psutil.Process(os.getppid()).create_time())


def test_a_server_that_does_not_start_leaves_the_other_ones_announcement(tmp_path, parent) -> None:
    client.announce(tmp_path, OTHER, "s", parent)
    with pytest.raises(UsageError), cli_serve._announced(tmp_path, "t"):
        raise UsageError("its port is taken")
    assert client.announced(tmp_path) == (OTHER, parent, "s")


def test_a_server_that_ends_takes_back_its_own_announcement_alone(tmp_path, parent) -> None:
    with cli_serve._announced(tmp_path, "t") as tell:
        tell(THIS)
        assert client.announced(tmp_path).address == THIS
    assert not (tmp_path / client.SERVED).exists()
    with cli_serve._announced(tmp_path, "t") as tell:
        tell(THIS)
        client.announce(tmp_path, OTHER, "s", parent)
    assert client.announced(tmp_path) == (OTHER, parent, "s")


def test_the_server_that_was_announced_before_is_found_again(tmp_path, parent) -> None:
    """As after `mmrag demo` beside a server of the demo's index; one that was killed is not."""
    client.announce(tmp_path, OTHER, "s", parent)
    with cli_serve._announced(tmp_path, "t") as tell:
        tell(THIS)
    assert client.announced(tmp_path) == (OTHER, parent, "s")
    client.announce(tmp_path, THIS)
    client.withdraw(tmp_path, client.Announced(OTHER, Process(parent.pid, 1.0)))
    assert not (tmp_path / client.SERVED).exists()


def test_a_server_that_does_not_start_is_an_error(tmp_path) -> None:
    """There is no index; another's announcement, which was left behind, is not taken for this one's."""
    (tmp_path / client.SERVED).write_text('{"address": "http://127.0.0.1:1", "pid": 1}')
    with pytest.raises(MmragError, match="did not start"), client.served(tmp_path):
        pass


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")


def test_the_environments_proxy_sees_no_question_to_this_machine(tmp_path, server, dead_proxy) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    client.announce(tmp_path, address)
    assert cli_serve._served(tmp_path, Settings(), chosen=False) == address
    assert asked(server, api_key="a-key") == {"answer": "yes"}
    found = mmrag("ask", "what?", "--server", address, "--json", "--index", tmp_path)
    assert json.loads(found.out) == {"answer": "yes"}


def test_a_server_elsewhere_is_asked_by_the_environments_proxy(server, monkeypatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MMRAG_API_KEY", "a-key")
    found = mmrag("ask", "what?", "--filter", "year > 2020", "--server", "http://kb.example.com/", "--json")
    assert (json.loads(found.out), found.status) == ({"answer": "yes"}, 0)
    [(path, key, body)] = server.asked
    assert (path, key) == ("http://kb.example.com/v1/answer", "Bearer a-key")
    assert body == {"query": "what?", "mode": "auto", "k": 10, "filter": "year > 2020", "annotate": False}


def test_pictures_that_a_server_elsewhere_marked_are_written(server, tmp_path) -> None:
    Image.new("RGB", (4, 2)).save(out := io.BytesIO(), "PNG")
    uri = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    box = {"xyxy": [0, 0, 1, 1], "label": ""}
    boxes = [box | {"image": 1}, box | {"image": 1}, box | {"image": "query"}]
    drawn = [{"image": "query", "data_uri": uri}, {"image": 1, "data_uri": uri}]
    server.answer = 200, json.dumps({"answer": "yes", "boxes": boxes, "annotated": drawn}).encode()
    ask = ["ask", "what?", "--server", f"http://127.0.0.1:{server.server_port}", "--json"]
    found = mmrag(*ask, "--annotate", tmp_path / "m.png")
    assert json.loads(found.out) == {"answer": "yes", "boxes": boxes}
    assert Image.open(tmp_path / "m.png").size == Image.open(tmp_path / "m-2.png").size == (4, 2)
    assert server.asked[0][2]["annotate"] is True
    server.answer = 200, json.dumps({"answer": "yes", "boxes": boxes, "annotated": []}).encode()
    assert "no longer has the picture of [1]" in mmrag(*ask, "--annotate", tmp_path / "n.png").err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--server", "kb:8000"], "write http://HOST:PORT"),
        (["--server", "http://ann:hunter2@kb"], "the key is MMRAG_API_KEY's"),
        (["--server", "ann:hunter2@kb:8000"], "write http://HOST:PORT"),
        (["--server", "http://kb?token=hunter2"], "write http://HOST:PORT"),
        (["--server", "http://[::1:8000"], "write http://HOST:PORT"),
        (["--server", ""], "write http://HOST:PORT"),
        (
            ["--server", "http://kb", "--set", "search.alpha_text=0.5"],
            "leave --batch, --config and --set out",
        ),
        (["--server", "http://kb", "--config", "server"], "leave --batch, --config and --set out"),
        (["--server", "http://kb", "--batch", "q", "--out", "o"], "leave --batch, --config and --set out"),
    ],
)
def test_a_server_elsewhere_is_named_by_its_address(words, complaint) -> None:
    found = mmrag("ask", "what?", *words)
    assert found.status == 2
    assert complaint in found.err
    assert "hunter2" not in found.err


def test_a_place_where_answers_cannot_be_written_is_told_before_a_model_is_loaded(tmp_path) -> None:
    for out in (tmp_path, tmp_path / "nowhere" / "o.parquet"):
        found = mmrag("ask", "--batch", tmp_path / "q.jsonl", "--out", out, "--index", tmp_path)
        assert (found.status, "wanted the name of a file" in found.err) == (2, True)


@pytest.mark.parametrize("name", ["all_proxy", "SSL_CERT_FILE"])
def test_an_environment_that_httpx_cannot_use_is_told(server, monkeypatch, name) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(name, {"all_proxy": "socks5://127.0.0.1:9"}.get(name, "/no/such/file"))
    found = mmrag("ask", "what?", "--server", "http://kb.example.com")
    assert found.status == 1
    assert "does not answer as mmrag does" in found.err


def test_the_json_of_another_server_is_no_answer(server) -> None:
    server.answer = 200, b'{"ok": true}'
    found = mmrag("ask", "what?", "--server", f"http://127.0.0.1:{server.server_port}")
    assert (found.status, "its reply is no answer" in found.err) == (1, True)


def test_who_answers_in_a_server_only_is_told_how_to_ask_one() -> None:
    with pytest.raises(UsageError, match="mmrag ask --server URL"):
        local_answerer(None, None, load_settings(None, ["generator.engine=vllm"]))
