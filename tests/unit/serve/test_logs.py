"""Lines with fields, and spans that reach a collector."""

from __future__ import annotations

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from otlp_collector import Collector

from pipelines.serve.logs import join_serve, line, timed
from pipelines.serve.traces import otlp

log = logging.getLogger("pipelines.serve.test")


def test_a_call_leaves_one_line_with_its_time_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipelines")
    with timed(log, "search", batch=2) as fields:
        fields["hits"] = 3
    (record,) = caplog.records
    assert vars(record) | {"call": "search", "batch": 2, "hits": 3} == vars(record)
    assert record.message.startswith("search call=search ms=")


def test_a_call_that_fails_says_how(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pipelines")
    with pytest.raises(KeyError), timed(log, "search"):
        raise KeyError("the question")
    (record,) = caplog.records
    assert vars(record) | {"error": "KeyError"} == vars(record)
    assert "the question" not in record.message


def test_lines_go_where_ray_serves_go() -> None:
    told: list[logging.LogRecord] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record)

    theirs, ours = logging.getLogger("ray.serve"), logging.getLogger("pipelines")
    before = list(ours.handlers), ours.level, ours.propagate
    kept = Kept()
    theirs.addHandler(kept)
    try:
        join_serve("WARNING")
        join_serve("WARNING")  # a replica that was configured anew
        line(log, "quiet")
        log.warning("loud")
        assert [record.getMessage() for record in told] == ["loud"]
    finally:
        theirs.removeHandler(kept)
        ours.handlers, ours.level, ours.propagate = before


def test_spans_are_sent_to_the_collector_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector.running() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        provider = TracerProvider()
        for processor in otlp():
            provider.add_span_processor(processor)
        with provider.get_tracer("test").start_as_current_span("a question"):
            pass
        provider.shutdown()  # sends what waits
    assert [span.name for span in collector.spans] == ["a question"]
