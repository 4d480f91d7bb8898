"""Traces of a front door: made when a call ends, kept for a while, exported where configured, told on demand."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING

from services.core.clock import NS_PER_MS, Clock
from services.core.errors import InvalidRequestError
from services.frontdoor.call import Call
from services.frontdoor.cluster_servicer import ClusterServicer
from services.frontdoor.interceptor import Context
from services.pb import trace_pb2 as pb
from services.pb import trace_pb2_grpc
from services.telemetry.config import TelemetryConfig, TracesConfig
from services.telemetry.tracing import RecentTraces, Span, Trace, TracedCall, traced_output

if TYPE_CHECKING:
    from services.telemetry.otlp import SpanExport

MAX_ID_CHARS = 160
MAX_TRACES = 100
DEFAULT_TRACES = 20
NS_PER_US = 1000


class Traces:
    """An observer (see layers.py) of both doors: a call that had outputs becomes a trace.

    Args:
        export: sends it, or None.
        model: name that clients use.

    Attributes:
        where: id of this front door.
        recent: the last ones.
    """

    def __init__(self, keep: int, export: SpanExport | None, model: str, where: str, clock: Clock) -> None:
        self.where = where
        self.recent = RecentTraces(keep)
        self._export = export
        self._model = model
        self._pid = os.getpid()
        self._clock = clock

    def close(self) -> None:
        """Send what waits; blocking."""
        if self._export is not None:
            self._export.close()

    def __call__(self, call: Call, code: str, now: int) -> None:
        """The handler of a call is over; its trace ends when the last of its answer was written."""
        if call.streams:
            call.when_over(lambda end_ns: self._keep(call, code, end_ns))

    def _keep(self, call: Call, code: str, end_ns: int) -> None:
        outputs = []
        for stream in call.streams:
            end = stream.tokens.end
            finish = None if end is None else end.finish
            cache = "" if stream.asked is None else stream.cache
            cached = stream.tokens.cached_tokens
            outputs.append(traced_output(stream.request, stream.timeline, cached, finish, cache))
        traced = TracedCall(
            identity=call.trace,
            method=call.method,
            operation=call.operation,
            model=self._model,
            code=code,
            start_ns=call.received_ns,
            end_ns=end_ns,
            unix_ns=self._clock.unix_ms() * NS_PER_MS,
            where=self.where,
            pid=self._pid,
            outputs=outputs,
        )
        self.recent.add(traced)
        if self._export is not None:
            self._export.add(traced)


def make_traces(
    telemetry: TelemetryConfig | None, front_door: str, cluster_id: str, model: str, clock: Clock
) -> Traces:
    """What a configuration asks for; without one, traces are kept and not sent."""
    config = TracesConfig() if telemetry is None else telemetry.traces
    about = {
        "service.instance.id": front_door,
        "service.version": importlib.metadata.version("triptych"),
        "triptych.cluster": cluster_id,
    }
    if config.otlp_endpoint is None:
        return Traces(config.keep, None, model, front_door, clock)
    from services.telemetry.otlp import SpanExport  # whose libraries take memory that most front doors need not have

    return Traces(config.keep, SpanExport(config, about), model, front_door, clock)


class TraceServicer(trace_pb2_grpc.TraceServiceServicer):
    """TraceService over what one front door keeps.

    Args:
        cluster: knows the other front doors.
    """

    def __init__(self, traces: Traces, cluster: ClusterServicer) -> None:
        self._traces = traces
        self._cluster = cluster

    async def GetTraces(self, request: pb.GetTracesRequest, context: Context) -> pb.GetTracesResponse:
        """Of one request, or the newest."""
        if len(request.id) > MAX_ID_CHARS:
            raise InvalidRequestError("id", f"is longer than {MAX_ID_CHARS} characters; give a request or trace id")
        if request.limit > MAX_TRACES:
            raise InvalidRequestError("limit", f"{request.limit} is above {MAX_TRACES}")
        found = self._traces.recent.find(request.id, request.limit or DEFAULT_TRACES)
        return pb.GetTracesResponse(
            front_door=self._traces.where,
            traces=[trace_message(trace) for trace in found],
            front_doors=list(self._cluster.metrics_targets.front_doors),
        )


def trace_message(trace: Trace) -> pb.Trace:
    """One trace for the wire."""
    start_ns = trace.spans[0].start_ns
    return pb.Trace(
        trace_id=trace.identity.trace_id,
        request_id=trace.request_id,
        unix_us=trace.unix_ns // NS_PER_US,
        spans=[span_message(span, start_ns) for span in trace.spans],
    )


def span_message(span: Span, start_ns: int) -> pb.Span:
    """One span, its times from the trace's start."""
    return pb.Span(
        span_id=f"{span.span_id:016x}",
        parent_span_id=f"{span.parent_id:016x}" if span.parent_id else "",
        name=span.name,
        worker=span.where,
        pid=span.pid,
        start_us=(span.start_ns - start_ns) / NS_PER_US,
        duration_us=(span.end_ns - span.start_ns) / NS_PER_US,
        attributes={key: text_of(value) for key, value in span.attributes.items()},
        events=[pb.SpanEvent(name=name, offset_us=(at_ns - start_ns) / NS_PER_US) for name, at_ns in span.events],
        error=span.error,
    )


def text_of(value: object) -> str:
    """An attribute for people."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
