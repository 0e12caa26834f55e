"""The query encoder behind its handle, as the retriever's threads ask it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pipelines.core.encoder import EncoderConfig, load_encoder
from pipelines.core.errors import StoreUnavailable
from pipelines.core.space import Space
from pipelines.serve.handles import Described, QuestionVectors, RemoteEmbedder, RemoteEncoder, RemoteQuestions

TIMEOUT_S = 10.0


class FakeResponse:
    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self, timeout_s: float) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class FakeMethod:
    """A method of a handle: `answers` in turn, the last one for ever; `asked` is what it was called with."""

    def __init__(self, *answers: Any, gate: threading.Event | None = None) -> None:
        self._answers, self._gate = list(answers), gate
        self.asked: list[Any] = []

    def remote(self, *arguments: Any) -> FakeResponse:
        self.asked.append(arguments)
        if self._gate is not None:
            assert self._gate.wait(TIMEOUT_S)
        return FakeResponse(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])


class FakeHandle:
    def __init__(self, question: FakeMethod) -> None:
        self.question = question
        self.described = FakeMethod(Described("key", Space(model="text", revision="1", dim=2), 0.25))


VECTORS = QuestionVectors(np.array([1, 0], np.float32), np.array([0, 1, 0], np.float32))


def test_branches_that_ask_at_once_make_one_call() -> None:
    gate = threading.Event()
    method = FakeMethod(VECTORS, gate=gate)
    handle: Any = FakeHandle(method)
    questions = RemoteQuestions(handle, TIMEOUT_S)
    encoder = RemoteEncoder(load_encoder(EncoderConfig()), handle, questions, TIMEOUT_S)
    embedder = RemoteEmbedder(handle, questions, TIMEOUT_S)
    with ThreadPoolExecutor(2) as pool:
        visual = pool.submit(encoder.encode_texts, ["pump"])
        text = pool.submit(embedder.embed_queries, ["pump"])
        gate.set()
        np.testing.assert_array_equal(visual.result(TIMEOUT_S), [[0, 1, 0]])
        np.testing.assert_array_equal(text.result(TIMEOUT_S), [[1, 0]])
    assert method.asked == [("pump",)]
    encoder.encode_texts(["pump"])
    assert len(method.asked) == 1
    encoder.encode_texts(["fan"])
    assert method.asked == [("pump",), ("fan",)]


def test_a_call_that_failed_is_made_again() -> None:
    method = FakeMethod(TimeoutError(), VECTORS)
    handle: Any = FakeHandle(method)
    questions = RemoteQuestions(handle, TIMEOUT_S)
    with pytest.raises(StoreUnavailable, match="the query encoder did not answer within 10 s"):
        questions("pump")
    assert questions("pump") is VECTORS


def test_texts_are_forgotten_in_the_end() -> None:
    method = FakeMethod(VECTORS)
    handle: Any = FakeHandle(method)
    questions = RemoteQuestions(handle, TIMEOUT_S)
    for number in range(200):
        questions(str(number))
    questions("199")
    assert len(method.asked) == 200
    questions("0")
    assert len(method.asked) == 201
