"""A model behind an API of OpenAI's form: what it is asked, and what is told of failures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from chat_server import Scripted, completion
from pydantic import SecretStr, ValidationError

from pipelines.core import chat
from pipelines.core.chat import Chat, retry_after_s
from pipelines.core.chat_config import ChatConfig
from pipelines.core.errors import ModelUnavailable, NoReply, RequestRefused, UsageError


class OracleConfig(ChatConfig):
    who = "the oracle"
    key_variable = "MMRAG_ORACLE_KEY"


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted.running() as found:
        yield found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited, in seconds."""
    found: list[float] = []
    monkeypatch.setattr(chat.time, "sleep", found.append)
    return found


@pytest.fixture
def ask(server: Scripted) -> Iterator[Callable[..., Chat]]:
    made: list[Chat] = []

    def make(**fields: Any) -> Chat:
        made.append(Chat(OracleConfig(url=server.url, model="m", **fields)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_is_asked_again_after_what_may_pass(server: Scripted, ask, waits: list[float]) -> None:
    server.replies = [
        (429, {"Retry-After": "7"}, b"{}"),
        (503, {}, b"busy"),
        (429, {"Retry-After": "86400"}, b"{}"),
        (200, {}, completion("yes")),
    ]
    assert ask(max_wait_s=30).reply("s", []) == "yes"
    assert waits == [7, 1.0, 30]


def test_it_is_not_asked_for_ever(server: Scripted, ask, waits: list[float]) -> None:
    server.replies = [(500, {}, b"broken\n\nhere")]
    with pytest.raises(ModelUnavailable, match="answers 500: broken here"):
        ask(retries=2).reply("s", [])
    assert len(server.asked) == 3
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_told_at_once_and_without_the_key(server: Scripted, ask, status: int) -> None:
    server.replies = [(status, {}, json.dumps({"error": {"message": "no sk-secret here"}}).encode())]
    with pytest.raises(UsageError) as caught:
        ask(api_key=SecretStr("sk-secret")).reply("s", [])
    said = str(caught.value)
    assert f"answers {status}: no *** here" in said
    assert ("MMRAG_ORACLE_KEY" in said) == (status == 401)
    assert len(server.asked) == 1
    assert server.asked[0][1] == "Bearer sk-secret"


def test_what_other_servers_want_is_sent(server: Scripted, ask) -> None:
    server.replies = [(200, {}, completion("yes")), (400, {}, b"no k-1, k-12")]
    asked = ask(
        extra_headers={"api-key": SecretStr("k-1"), "X-Team": SecretStr("k-12")},
        extra_body={"max_tokens": None, "temperature": None, "max_completion_tokens": 4000},
    )
    assert asked.reply("s", []) == "yes"
    body, headers = server.asked[0][2], server.headers[0]
    assert body == {"model": "m", "messages": body["messages"], "max_completion_tokens": 4000}
    assert (headers["api-key"], headers["X-Team"]) == ("k-1", "k-12")
    with pytest.raises(RequestRefused, match=r"answers 400: no \*\*\*, \*\*\*$"):
        asked.reply("s", [])


def test_a_version_of_the_api_stands_in_the_address(server: Scripted) -> None:
    server.says("yes")
    with Chat(OracleConfig(url=f"{server.url}/deployments/d/?api-version=2024-06-01", model="m")) as one:
        assert one.reply("s", []) == "yes"
    assert server.asked[0][0] == "/v1/deployments/d/chat/completions?api-version=2024-06-01"


@pytest.mark.parametrize(
    "fields",
    [
        {"extra_headers": {"a b": "x"}},
        {"extra_headers": {"a": "sk-secret\n"}},
        {"extra_body": {"a": datetime.now(UTC)}},
        {"api_key": "sk-secret\n"},
        {"extra_body": {"messages": []}},
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        OracleConfig(url="http://h", model="m", **fields)
    assert "sk-secret" not in str(caught.value)


def test_without_a_key_none_is_sent(server: Scripted, ask) -> None:
    server.says("yes")
    ask().reply("s", [])
    assert server.asked[0][1] is None


def test_a_server_that_is_not_there_is_told(waits: list[float]) -> None:
    with (
        Chat(OracleConfig(url="http://127.0.0.1:9", model="m", retries=1)) as absent,
        pytest.raises(ModelUnavailable, match=r"127\.0\.0\.1:9 does not answer"),
    ):
        absent.reply("s", [])
    assert waits == [0.5]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": 1}]}'])
def test_what_is_no_chat_completion_is_told(server: Scripted, ask, body: bytes) -> None:
    server.replies = [(200, {}, body)]
    with pytest.raises(ModelUnavailable, match="is that its URL"):
        ask().reply("s", [])


def test_a_reply_without_end_is_cut_off_by_size_and_by_time(server: Scripted, ask) -> None:
    server.replies = [(200, {}, b"x" * (2**20 + 1))]
    with pytest.raises(NoReply, match="more than 1,048,576 bytes"):
        ask().reply("s", [])
    server.drip_s = 0.05
    start = time.monotonic()
    with pytest.raises(NoReply, match="its answer has no end"):
        ask(timeout_s=0.2, retries=0).reply("s", [])
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestRefused),
        (413, RequestRefused),
        (422, RequestRefused),
        (404, UsageError),
        (429, ModelUnavailable),
        (503, ModelUnavailable),
        (500, NoReply),
        (504, NoReply),
    ],
)
def test_whether_a_request_or_the_server_failed_is_told_apart(
    server: Scripted, ask, waits, status: int, error: type[Exception]
) -> None:
    server.replies = [(status, {}, b"no")]
    with pytest.raises(error) as caught:
        ask(retries=1).reply("s", [])
    assert type(caught.value) is error


def test_a_late_reply_is_none(server: Scripted, ask) -> None:
    server.says("yes")
    server.late_s = 0.5
    with pytest.raises(NoReply, match="does not answer"):
        ask(timeout_s=0.1, retries=0).reply("s", [])


def test_words_of_a_server_cannot_steer_a_terminal(server: Scripted, ask) -> None:
    server.replies = [(400, {}, b"\x1b[2Jgone\xff")]
    with pytest.raises(RequestRefused, match=r"answers 400: \[2Jgone"):
        ask().reply("s", [])


def test_without_words_of_a_system_none_are_sent(server: Scripted, ask) -> None:
    server.says("yes")
    ask().reply("", [chat.words("What is it?")])
    [message] = server.asked[0][2]["messages"]
    assert message["role"] == "user"


def test_whose_the_models_of_a_server_are(server: Scripted, ask) -> None:
    assert ask().owners() == {"vllm"}
    with (
        Chat(OracleConfig(url="http://127.0.0.1:9", model="m")) as absent,
        pytest.raises(ModelUnavailable, match=r"the oracle at http:.*does not answer"),
    ):
        absent.owners()


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("3", 1) == 3
    assert retry_after_s(None, 1) == 1
    assert retry_after_s("soon", 1) == 1
    assert retry_after_s("-3", 1) == 1
    assert retry_after_s("Fri, 31 Dec 9999 23:59:59 -2359", 1) == 1
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    assert 18 < retry_after_s(later, 1) <= 20
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", 1) == 0


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://host",
        "http://user:word@host/v1",
        "http://host/v1?key=secret",
        "http://h?api-version=1&key=s",
        "",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        OracleConfig(url=url, model="m")


def test_a_proxy_of_the_environment_is_asked_for_other_machines_alone(
    server: Scripted, ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.says("yes")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    assert ask().reply("", [{"type": "text", "text": "?"}]) == "yes"
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1"))
    with Chat(OracleConfig(url="http://oracle.example.com/v1", model="m")) as chat_there:
        assert chat_there.reply("", [{"type": "text", "text": "?"}]) == "yes"
    assert [path for path, _, _ in server.asked] == [
        "/v1/chat/completions",
        "http://oracle.example.com/v1/chat/completions",
    ]
