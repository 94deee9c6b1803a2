"""Traces through OpenTelemetry, exported by OTLP over HTTP: the extra `[otel]`. Nothing else imports its packages.

All settings are OpenTelemetry's own environment variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME,
OTEL_TRACES_SAMPLER ...), read by its SDK. Spans wait in a bounded queue and are sent by a thread of the SDK's; what a
collector does not take in time is dropped: no request waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from thaloom import __version__
from thaloom.base.events import Event
from thaloom.edge.api.entrance.access_log import RequestServed
from thaloom.edge.api.entrance.gen_ai import attributes, span_name

LAST_WORDS_S = 2.0
"""For what still waits to be sent when the door closes."""


class OtelTracing:
    """Implements tracing.Tracing. `close` it."""

    def __init__(self) -> None:
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: "thaloom"}
        self._provider = TracerProvider(
            resource=Resource.create({SERVICE_VERSION: __version__, **named}), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("thaloom", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, headers: Mapping[str, str]) -> OtelRequest:
        parent = self._propagator.extract(headers)
        return OtelRequest(self._tracer.start_span(name, context=parent, kind=SpanKind.SERVER))

    def close(self) -> None:
        """Blocks for at most a few seconds."""
        self._provider.force_flush(int(LAST_WORDS_S * 1000))
        self._provider.shutdown()


class OtelRequest:
    """Implements tracing.Span."""

    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def end(self, served: Event) -> None:
        if isinstance(served, RequestServed) and self._span.is_recording():
            self._span.update_name(span_name(served))
            self._span.set_attributes(attributes(served))
            if served.status >= 500:
                self._span.set_status(StatusCode.ERROR)
        self._span.end()
