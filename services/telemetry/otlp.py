"""Sends traces to an OpenTelemetry collector: OTLP over HTTP, in batches, from threads of its own."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.trace.status import Status, StatusCode

from services.telemetry.config import TracesConfig
from services.telemetry.tracing import TracedCall, make_trace

SCOPE = InstrumentationScope("triptych")
LOW_64 = (1 << 64) - 1
DELAY_MS = 1000.0
QUEUE_SPANS = 8192
"""Spans that wait; when the collector does not take them, later ones are dropped and counted by the SDK."""


class SpanExport:
    """What is sent, and where.

    Args:
        config: endpoint and share; the endpoint must be there.
        about: attributes of this process, as `service.instance.id`.
    """

    def __init__(self, config: TracesConfig, about: Mapping[str, str]) -> None:
        assert config.otlp_endpoint is not None
        exporter = OTLPSpanExporter(endpoint=f"{config.otlp_endpoint.rstrip('/')}/v1/traces")
        self._processor = BatchSpanProcessor(exporter, max_queue_size=QUEUE_SPANS, schedule_delay_millis=DELAY_MS)
        self._resource = Resource({"service.name": "triptych", **about})
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="otlp")
        self._below = round(config.sample_share * (LOW_64 + 1))

    def add(self, call: TracedCall) -> None:
        """Queue a call; those whose client decided about sampling are sent as it said, of the others a share.

        The share is chosen by trace id as OpenTelemetry's TraceIdRatioBased sampler does, so that others choose alike.
        """
        own, parent = call.identity.own, call.identity.parent
        is_chosen = own.trace_id & LOW_64 < self._below if parent is None else own.trace_flags.sampled
        if is_chosen:
            self._thread.submit(self._send, call)

    def _send(self, call: TracedCall) -> None:
        """Make the spans, beside whoever serves requests."""
        trace = make_trace(call)
        own, parent = trace.identity.own, trace.identity.parent
        offset_ns = trace.unix_ns - trace.spans[0].start_ns
        flags, state = own.trace_flags, own.trace_state
        contexts = {span.span_id: SpanContext(own.trace_id, span.span_id, False, flags, state) for span in trace.spans}
        if parent is not None:
            contexts[parent.span_id] = parent
        for place, span in enumerate(trace.spans):
            self._processor.on_end(
                ReadableSpan(
                    name=span.name,
                    context=contexts[span.span_id],
                    parent=contexts.get(span.parent_id),
                    resource=self._resource,
                    attributes=dict(span.attributes),
                    events=[Event(name, timestamp=at_ns + offset_ns) for name, at_ns in span.events],
                    kind=SpanKind.INTERNAL if place else SpanKind.SERVER,
                    status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
                    start_time=span.start_ns + offset_ns,
                    end_time=span.end_ns + offset_ns,
                    instrumentation_scope=SCOPE,
                )
            )

    def close(self) -> None:
        """Send what waits, and end the threads; blocking."""
        self._thread.shutdown()
        self._processor.shutdown()
