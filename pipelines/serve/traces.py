"""Where Ray Serve's OpenTelemetry spans go: `serve.start(tracing_config=...)` names these by import path."""

from __future__ import annotations

from typing import Any

from pipelines.core.errors import MissingDependency, install_line
from pipelines.serve.config import TraceConfig

OTLP = "pipelines.serve.traces:otlp"


def otlp() -> list[Any]:
    """Span processors that send to a collector by OTLP over HTTP. The standard variables say where and how:
    OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318), _HEADERS, _CERTIFICATE and so on, in the
    environment that Ray is started with. Raises MissingDependency."""
    processor, exporter = _exporting()
    return [processor(exporter())]


def require(config: TraceConfig) -> None:
    """Raise MissingDependency where what the settings ask for is not installed."""
    if config.sampling_ratio > 0 and config.exporter == "otlp":
        _exporting()


def _exporting() -> tuple[Any, Any]:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise MissingDependency(f"serve.traces.exporter otlp needs: {install_line('traces')}") from exc
    return BatchSpanProcessor, OTLPSpanExporter
