"""Where spans go, as `tracing.exporter` names it. Each process of the service calls the function once."""

from __future__ import annotations

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def otlp() -> list[SpanProcessor]:
    """To a collector, by OTLP over HTTP, in batches off the request's way.

    It reads the standard variables: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME.
    """
    return [BatchSpanProcessor(OTLPSpanExporter())]
