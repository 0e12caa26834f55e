"""OpenAI's form, asked with OpenAI's own client."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from fakes import picture
from gateway_fakes import ANSWER, CONTENT, ScriptedBackend, app_of, bearer, client_of, data_uri, keys

from pipelines.core.errors import BadImage, GeneratorUnavailable
from pipelines.core.filters import And, Comparison
from pipelines.core.generator import GeneratorConfig, Sampling
from pipelines.core.prompts import Turn
from pipelines.core.types import Usage
from pipelines.serve import chat

pytestmark = pytest.mark.anyio

ASKED: list[Any] = [{"role": "user", "content": "How far apart are the holes?"}]
CITATION = {
    "n": 1,
    "hit_id": "sink#img-0",
    "document_id": "sink",
    "source": "sink.jsonl",
    "image_uri": f"/v1/images/{CONTENT}",
    "text": "散热器 heat sink",
}
BOX = {"image": 1, "xyxy": [100.0, 100.0, 300.0, 200.0], "label": "hole"}
USUAL = GeneratorConfig().sampling


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def client(backend: ScriptedBackend) -> openai.AsyncOpenAI:
    return openai_of(client_of(app_of(backend)))


def openai_of(client: httpx.AsyncClient, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url="http://localhost/v1", http_client=client, max_retries=0)


async def test_a_completion_holds_the_words_and_the_evidence(client: openai.AsyncOpenAI) -> None:
    completion = await client.chat.completions.create(model="tiny-llava", messages=ASKED)
    (choice,) = completion.choices
    assert completion.id.startswith("chatcmpl-")
    assert (completion.object, completion.model) == ("chat.completion", "tiny-llava")
    assert (choice.message.role, choice.message.content) == ("assistant", "40 mm apart [1].")
    assert choice.finish_reason == "stop"
    extra = choice.message.model_extra or {}
    assert extra["citations"] == [CITATION]
    assert extra["boxes"] == [BOX]
    assert extra["hits"][0]["score"] == 0.5
    assert extra["refused"] is False


async def test_a_stream_ends_with_the_evidence(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="tiny-llava", messages=ASKED, stream=True)
    chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    early = (deltas[0].model_extra or {})["hits"]
    assert [hit["id"] for hit in early] == [hit["id"] for hit in (deltas[-1].model_extra or {})["hits"]]
    assert [delta.content for delta in deltas[1:-1]] == ["40 mm ", "apart [1]."]
    extra = deltas[-1].model_extra or {}
    assert (extra["citations"], extra["boxes"]) == ([CITATION], [BOX])
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]


async def test_a_completion_tells_its_tokens_and_whether_it_was_cut(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    backend.result = replace(backend.result, usage=Usage(312, 40, cut=True))
    completion = await client.chat.completions.create(model="tiny-llava", messages=ASKED)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage == openai.types.CompletionUsage(
        prompt_tokens=312, completion_tokens=40, total_tokens=352
    )


async def test_a_stream_tells_its_tokens_where_it_is_asked_to(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    backend.result = replace(backend.result, usage=Usage(312, 40, cut=True))
    stream = await client.chat.completions.create(
        model="tiny-llava", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    *said, told = [chunk async for chunk in stream]
    assert said[-1].choices[0].finish_reason == "length"
    assert {chunk.usage for chunk in said} == {None}
    assert told.choices == []
    assert told.usage
    assert told.usage.total_tokens == 352


async def test_a_stream_is_server_sent_events_to_the_end(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend)) as client:
        found = await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": True})
    assert found.headers["Content-Type"].startswith("text/event-stream")
    assert "Content-Length" not in found.headers
    events = found.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2])


async def test_the_last_message_is_the_question_and_the_others_are_history(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    own = {"type": "image_url", "image_url": {"url": data_uri(picture("red")), "detail": "low"}}
    former = {"type": "image_url", "image_url": {"url": data_uri(picture("green"))}}
    messages: list[Any] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, former]},
        {"role": "assistant", "content": "A heat sink [1]."},
        {
            "role": "user",
            "content": [own, {"type": "text", "text": "And"}, {"type": "text", "text": "this?"}],
        },
    ]
    await client.chat.completions.create(
        model="tiny-llava", messages=messages, extra_body={"mode": "image", "k": 3, "filter": "year > 1"}
    )
    (question,) = backend.questions
    assert question.query.text == "And\nthis?"
    assert question.query.image == picture("red")
    assert (question.query.mode, question.query.k) == ("image", 3)
    assert question.query.where == Comparison("year", ">", 1)
    assert question.history == (Turn("user", "What is this?"), Turn("assistant", "A heat sink [1]."))


async def test_of_a_replayed_conversation_with_tools_the_words_of_both_sides_are_history(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "developer", "content": "You are a pirate."},
        {"role": "user", "content": "What is this?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "a sink"}]},
        {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": None},
        {"role": "assistant", "content": "A heat sink [1]."},
        {"role": "user", "content": "How wide is it?"},
    ]
    await client.chat.completions.create(model="tiny-llava", messages=messages)
    (question,) = backend.questions
    assert question.history == (Turn("user", "What is this?"), Turn("assistant", "A heat sink [1]."))


async def test_a_former_picture_without_words_keeps_its_answer(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    former = {"type": "image_url", "image_url": {"url": data_uri(picture("green"))}}
    for content in ([former], ""):
        messages: list[Any] = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": "A heat sink [1]."},
            {"role": "user", "content": "How wide is it?"},
        ]
        await client.chat.completions.create(model="tiny-llava", messages=messages)
        assert backend.questions[-1].history == (Turn("user", ""), Turn("assistant", "A heat sink [1]."))


async def test_an_adapter_and_sampling_are_passed_on(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    completion = await client.chat.completions.create(
        model="tiny-llava:manuals", messages=ASKED, max_tokens=5, temperature=0.5, top_p=0.9
    )
    assert completion.model == "tiny-llava:manuals"
    assert backend.questions[0].sampling == Sampling(5, 0.5, 0.9, "manuals")


async def test_what_a_request_leaves_open_is_the_servers_own(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    await client.chat.completions.create(model="tiny-llava", messages=ASKED, max_completion_tokens=10**6)
    assert backend.questions[0].sampling == USUAL


async def test_no_model_means_the_first(backend: ScriptedBackend) -> None:
    async with client_of(app_of(backend)) as client:
        found = await client.post("/v1/chat/completions", json={"messages": ASKED})
    assert found.json()["model"] == "tiny-llava"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o' here; there is tiny-llava"):
        await client.chat.completions.create(model="gpt-4o", messages=ASKED, stream=stream)


def test_an_adapter_is_what_follows_the_longest_base() -> None:
    models = ["hub:7b", "hub:7b:manuals", "hub"]
    assert chat.model_and_adapter("hub:7b:manuals", models) == ("hub:7b:manuals", "manuals")
    assert chat.model_and_adapter(None, models) == ("hub:7b", "7b")  # hub is a base of it, too


async def test_models_are_listed(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny-llava", "tiny-llava:manuals"]


async def test_a_key_is_sent_as_openais_clients_do_and_keeps_to_its_tenant(backend: ScriptedBackend) -> None:
    http = client_of(app_of(backend, api_keys=keys(anna="a")))
    client = openai_of(http, bearer("anna"))
    await client.chat.completions.create(
        model="tiny-llava", messages=ASKED, extra_body={"filter": 'tenant == "b"'}
    )
    own = Comparison("tenant", "==", "a")
    assert backend.questions[0].query.where == And((own, Comparison("tenant", "==", "b")))
    with pytest.raises(openai.AuthenticationError):
        await openai_of(http, "wrong").chat.completions.create(model="tiny-llava", messages=ASKED)


async def test_unknown_fields_are_ignored(backend: ScriptedBackend) -> None:
    body = {"messages": ASKED, "seed": 1, "tools": [], "stream_options": {"include_usage": True}, "n": 1}
    async with client_of(app_of(backend)) as client:
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 2}, "n: Input should be less than or equal to 1"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "the last message must be the user's"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages.0.role: Input should be"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.list[tagged-union",
        ),
        ({"messages": [{"role": "user", "content": ""}]}, "the query is empty"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_makes_no_sense_is_refused_in_one_sentence(
    backend: ScriptedBackend, change: dict[str, Any], message: str, stream: bool
) -> None:
    async with client_of(app_of(backend)) as client:
        found = await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": stream} | change)
    assert found.status_code == 400
    assert found.json()["error"]["message"].startswith(message)
    assert backend.questions == []


@pytest.mark.parametrize("spread", [False, True])
async def test_forty_pictures_are_refused(backend: ScriptedBackend, spread: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": data_uri(picture())}}
    messages = (
        [{"role": "user", "content": [part]}] * 40 if spread else [{"role": "user", "content": [part] * 40}]
    )
    async with client_of(app_of(backend)) as client:
        found = await client.post("/v1/chat/completions", json={"messages": messages})
    assert found.status_code == 400
    assert "40" in found.json()["error"]["message"]


@pytest.mark.parametrize(
    ("failure", "status"), [(BadImage("truncated PNG"), 400), (GeneratorUnavailable("vLLM is gone"), 503)]
)
async def test_what_fails_before_the_first_word_has_a_status(
    backend: ScriptedBackend, failure: Exception, status: int
) -> None:
    backend.failure = failure
    async with client_of(app_of(backend)) as client:
        found = await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": True})
    assert found.status_code == status
    assert found.json()["error"]["message"] == str(failure)


async def test_what_fails_after_the_first_word_ends_the_stream_with_an_error(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    backend.failure, backend.fails_after_a_word = GeneratorUnavailable("vLLM is gone"), True
    stream = await client.chat.completions.create(model="tiny-llava", messages=ASKED, stream=True)
    said: list[str | None] = []

    async def listen() -> None:
        async for chunk in stream:
            said.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="vLLM is gone"):
        await listen()
    assert said == ["", "40 mm "]


@pytest.mark.parametrize("failure", [GeneratorUnavailable("vLLM is gone"), RuntimeError("bug")])
async def test_a_stream_that_broke_off_is_counted(backend: ScriptedBackend, failure: Exception) -> None:
    """Its status is 200, as one that failed before its first word is not."""
    backend.failure = failure
    async with client_of(app_of(backend)) as client:
        for backend.fails_after_a_word in (False, True):
            await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": True})
        backend.failure = None
        await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": True})
        told = (await client.get("/metrics")).text
    assert "mmrag_broken_answers_total 1.0" in told
    assert 'mmrag_requests_total{route="/v1/chat/completions",status="200"} 2.0' in told


async def test_a_stream_that_fails_unexpectedly_tells_nothing(
    backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.failure, backend.fails_after_a_word = RuntimeError("the password is hunter2"), True
    async with client_of(app_of(backend)) as client:
        found = await client.post("/v1/chat/completions", json={"messages": ASKED, "stream": True})
    assert "hunter2" not in found.text
    assert json.loads(found.text.split("\n\n")[-2].removeprefix("data: "))["error"]["type"] == "server_error"
    assert "[DONE]" not in found.text
    assert "hunter2" in caplog.text


async def test_a_refusal_says_so(client: openai.AsyncOpenAI, backend: ScriptedBackend) -> None:
    backend.result = replace(ANSWER, refused=True, citations=(), boxes=())
    completion = await client.chat.completions.create(model="tiny-llava", messages=ASKED)
    assert (completion.choices[0].message.model_extra or {})["refused"] is True
