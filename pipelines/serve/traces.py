"""Where Ray Serve's OpenTelemetry spans go: `serve.start(tracing_config=...)` names these by import path."""

from __future__ import annotations

from typing import Any

from pipelines.core.errors import MissingDependency, install_line

OTLP = "pipelines.serve.traces:otlp"


def otlp() -> list[Any]:
    """Span processors that send to a collector by OTLP over HTTP. The standard variables say where and how:
    OTEL_EXPORTER_OTLP_ENDPOINT (default http://localhost:4318), _HEADERS, _CERTIFICATE and so on, in the
    environment that Ray is started with. Raises MissingDependency."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as exc:
        raise MissingDependency(f"serve.traces.exporter otlp needs: {install_line('traces')}") from exc
    return [BatchSpanProcessor(OTLPSpanExporter())]
